"""Our image branch against diffusers: the image embedder of Wan, and what its pipeline feeds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanImageEmbedding
from transformers import CLIPVisionConfig, CLIPVisionModel

from vedit.backbones.base import BackboneSpec
from vedit.context.clip import CLIPImages, prepare
from vedit.context.image_embedder import ImageEmbedder
from vedit.errors import WeightsError
from vedit.model import materialise

SPEC = BackboneSpec(width=24, latent_channels=4, patch=(1, 2, 2), cross_attention=True)
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "hidden_act": "gelu",
}


def wan(folder: Path, positions: int | None = None, image: bool = True) -> Any:
    torch.manual_seed(1)
    model = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=8,
        ffn_dim=16,
        num_layers=1,
        image_dim=16 if image else None,
        added_kv_proj_dim=24 if image else None,
        pos_embed_seq_len=positions,
    )
    if positions is not None:
        torch.nn.init.normal_(model.condition_embedder.image_embedder.pos_embed)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("positions", [None, 10])
def test_the_embedder_is_that_of_diffusers(positions: int | None) -> None:
    theirs = WanImageEmbedding(16, 24, positions)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0.5)
    ours = ImageEmbedder(16, 24, positions)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    features = torch.randn(3, 10, 16)
    # diffusers lays a first and a last frame, each of half the tokens, one after the other.
    theirs_in = features if positions is None else features.reshape(6, 5, 16)
    torch.testing.assert_close(ours(features), theirs(theirs_in), atol=1e-6, rtol=0)


def test_context_is_the_image_context_of_the_pipeline(tmp_path: Path) -> None:
    tower = CLIPVisionModel(CLIPVisionConfig(**SIZES)).eval()
    tower.save_pretrained(tmp_path / "image_encoder")
    transformer = wan(tmp_path / "transformer")
    source = torch.rand(2, 3, 5, 28, 40) * 2 - 1
    ours = materialise(
        lambda: CLIPImages(
            SPEC,
            weights=str(tmp_path / "image_encoder"),
            projection=str(tmp_path / "transformer"),
            images=["source"],
            **SIZES,
        )
    )
    with torch.no_grad():
        pixels = prepare(source[:, :, 0], 28)
        hidden = tower(pixels, output_hidden_states=True).hidden_states[-2]
        expected = transformer.condition_embedder.image_embedder(hidden)
        context = ours(["a", "b"], {"source": source})
    assert context.valid is None
    torch.testing.assert_close(context.tokens, expected, atol=1e-6, rtol=0)


def test_positions_of_a_first_and_last_frame_model_load(tmp_path: Path) -> None:
    transformer = wan(tmp_path, positions=10)
    ours = CLIPImages(SPEC, projection=str(tmp_path), **SIZES)
    theirs = transformer.condition_embedder.image_embedder
    assert torch.equal(ours.connector.pos_embed, theirs.pos_embed)
    with pytest.raises(WeightsError, match="trained on two images; give model.context's `images`"):
        CLIPImages(SPEC, projection=str(tmp_path), images=["source"], **SIZES)


def test_positions_that_a_checkpoint_lacks_are_zero(tmp_path: Path) -> None:
    transformer = wan(tmp_path)
    ours = CLIPImages(SPEC, projection=str(tmp_path), **SIZES)
    theirs = transformer.condition_embedder.image_embedder
    assert torch.equal(ours.connector.norm2.weight, theirs.norm2.weight)
    assert not ours.connector.pos_embed.any()


def test_a_text_to_video_checkpoint_leaves_the_embedder_new(tmp_path: Path) -> None:
    wan(tmp_path, image=False)
    ours = CLIPImages(SPEC, projection=str(tmp_path), **SIZES)
    assert not any(p.is_meta for p in ours.parameters())
    assert ours.connector.ff.net[2].weight.std() > 0
