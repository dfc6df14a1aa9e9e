"""Our text encoder against diffusers: prompt embedding of `WanPipeline`, text projection of Wan."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from vedit.backbones.base import BackboneSpec
from vedit.context.umt5 import UMT5
from vedit.model import materialise

TOKENIZER = Path(__file__).parents[2] / "nano" / "tokenizer"
SIZES = {"d_model": 32, "d_ff": 64, "num_layers": 3, "num_heads": 4, "d_kv": 8, "vocab_size": 1000}
PROMPTS = ["Make the &amp; video   black and white", "", "word " * 80]


@pytest.mark.parametrize("length", [16, 64])
def test_context_is_that_of_the_wan_pipeline(length: int, tmp_path: Path) -> None:
    theirs = UMT5EncoderModel(UMT5Config(**SIZES)).eval()
    wan = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=8,
        ffn_dim=16,
        num_layers=1,
    )
    theirs.save_pretrained(tmp_path / "text_encoder", max_shard_size="30KB")
    wan.save_pretrained(tmp_path / "transformer")
    pipeline = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(TOKENIZER),
        text_encoder=theirs,
        vae=None,
        scheduler=None,
        transformer=wan,
    )
    spec = BackboneSpec(width=24, latent_channels=4, patch=(1, 2, 2), cross_attention=True)
    ours = materialise(
        lambda: UMT5(
            spec,
            weights=str(tmp_path / "text_encoder"),
            tokenizer=str(TOKENIZER),
            projection=str(tmp_path / "transformer"),
            max_tokens=length,
            **SIZES,
        )
    )
    with torch.no_grad():
        embeds = pipeline._get_t5_prompt_embeds(
            list(PROMPTS), max_sequence_length=length, device=torch.device("cpu")
        )
        expected = wan.condition_embedder.text_embedder(embeds)
        context = ours(PROMPTS, {})
    assert context.valid is None, "the pipeline attends to padding"
    torch.testing.assert_close(context.tokens, expected, atol=1e-5, rtol=0)
    features = ours.features(PROMPTS)["text"]
    assert not embeds[:, features.shape[1] :].any()
    torch.testing.assert_close(features, embeds[:, : features.shape[1]], atol=1e-5, rtol=0)
