"""The text encoder of Wan: a UMT5 encoder and Wan's text projection.

Source: Wan (arXiv 2503.20314, section 4.2.1), and diffusers' `WanPipeline` for how prompts are
cleaned, padded and zeroed.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vedit.backbones.base import BackboneSpec
from vedit.context.base import ContextEncoder
from vedit.context.tokenizer import load_tokenizer
from vedit.errors import ConfigError
from vedit.folders import resolve_folder
from vedit.tokens import Context
from vedit.transfer import sent
from vedit.weights import check_config, fingerprint_of, load_strictly, tensors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT_EMBEDDER = "condition_embedder.text_embedder."
"""Where a diffusers Wan transformer keeps its text projection."""


def clean_prompt(text: str) -> str:
    r"""Clean a prompt as Wan was trained on it.

    Broken unicode is mended if `ftfy` is installed, HTML entities are resolved twice, and runs of
    whitespace become one space.

    Args:
        text: the prompt as it was typed.

    Returns:
        The prompt as the tokenizer reads it.

    Examples:
        >>> clean_prompt("  make it &amp;amp; \n blue ")
        'make it & blue'
    """
    try:
        from ftfy import fix_text
    except ImportError:
        pass
    else:
        text = fix_text(text)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()


class TextProjection(nn.Module):
    """Wan's map from text features to the width of the backbone: linear, GELU (tanh), linear.

    Args:
        text_width: width E of the features.
        width: width D of the backbone.
    """

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(text_width, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Project features (B, L, E) to tokens (B, L, D)."""
        return self.linear_2(nn.functional.gelu(self.linear_1(features), approximate="tanh"))


class UMT5(ContextEncoder):
    """A UMT5 encoder whose padded positions are zeroed and attended to, as Wan does.

    The sizes default to those of UMT5-XXL; they must be those of the weights.

    Args:
        spec: sizes of the backbone.
        weights: folder or hub id of the encoder, None for random weights.
        tokenizer: folder or hub id of the tokenizer.
        projection: folder or hub id of a diffusers Wan transformer whose text projection to start
            from, None for a random one.
        max_tokens: length to which instructions are padded or cut.
        d_model: width of the encoder.
        d_ff: width of its feed-forward layers.
        num_layers: number of its blocks.
        num_heads: number of its attention heads.
        d_kv: width of each head.
        vocab_size: number of its token embeddings.
        dtype: in which the encoder is held; UMT5-XXL is 23 GB in float32, half that in bfloat16.
    """

    connector: TextProjection

    def __init__(
        self,
        spec: BackboneSpec,
        weights: str | None = None,
        tokenizer: str | None = None,
        projection: str | None = None,
        max_tokens: int = 512,
        d_model: int = 4096,
        d_ff: int = 10240,
        num_layers: int = 24,
        num_heads: int = 64,
        d_kv: int = 64,
        vocab_size: int = 256384,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        from transformers import UMT5Config, UMT5EncoderModel

        super().__init__()
        self.weights, self.tokenizer, self.projection = weights, tokenizer, projection
        self.max_tokens = max_tokens
        self.dtype = getattr(torch, dtype)
        self.sizes: dict[str, Any] = {
            "d_model": d_model,
            "d_ff": d_ff,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "d_kv": d_kv,
            "vocab_size": vocab_size,
        }
        # No dropout: T5's default of 0.1 would disturb features whenever the tower is finetuned.
        config = UMT5Config(**self.sizes, dropout_rate=0.0, use_cache=False)
        with _meta() if weights is not None else nullcontext():
            self.tower = UMT5EncoderModel(config).to(self.dtype).eval()
            self.connector = TextProjection(d_model, spec.width)
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._null: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        if (
            weights is None
            and projection is not None
            and not self.connector.linear_1.weight.is_meta
        ):
            self.load_weights()  # whoever builds this calls it only if there are `weights`

    def load_weights(self) -> None:
        """Load tower, projection and tokenizer; a part without weights is initialised.

        Raises:
            WeightsError: if a folder is missing, or its tensors or sizes do not fit.
            ConfigError: if no tokenizer is named.
        """
        if self.weights is not None:
            folder = resolve_folder(self.weights)
            check_config(folder, self.sizes, "model.context.init_args")
            load_strictly(self.tower, tensors(folder), str(folder), dtype=self.dtype)
            self._load_tokenizer()
        if self.projection is not None:
            folder = resolve_folder(self.projection)
            check_config(folder, {"text_dim": self.sizes["d_model"]}, "model.context.init_args")
            projection = tensors(folder, prefix=TEXT_EMBEDDER)
            where = f"{folder}, {TEXT_EMBEDDER}*"
            load_strictly(self.connector, projection, where, dtype=torch.get_default_dtype())
        elif self.connector.linear_1.weight.is_meta:
            self.connector.to_empty(device="cpu")
            self.connector.linear_1.reset_parameters()
            self.connector.linear_2.reset_parameters()
        self._null.clear()

    def features(
        self, instruction: Sequence[str], images: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Encode instructions.

        Args:
            instruction: B instructions.
            images: not read.

        Returns:
            "text" (B, L, E): L tokens of the longest instruction, end of sentence included; zeros
            beyond the end of each.

        Raises:
            ConfigError: if no tokenizer is named.
            WeightsError: if the tokenizer is missing.
        """
        tokenizer = self._load_tokenizer()
        batch = tokenizer(
            [clean_prompt(text) for text in instruction],
            padding="longest",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        device = self._first_weight().device
        ids, mask = sent(batch.input_ids, device), sent(batch.attention_mask, device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._tower_trains()):
            hidden = self.tower(ids, mask).last_hidden_state
        return {"text": hidden * mask.unsqueeze(-1).to(hidden.dtype)}

    def context(self, features: Mapping[str, Tensor]) -> Context:
        """Pad features with zeros to `max_tokens` and project them.

        Args:
            features: "text" (B, L, E).

        Returns:
            Tokens (B, max_tokens, D), all of which are attended to.

        Raises:
            ConfigError: if stored features are longer than `max_tokens`.
        """
        text = features["text"]
        if text.shape[1] > self.max_tokens:
            raise ConfigError(
                f"model.context.init_args.max_tokens is {self.max_tokens}, but stored features "
                f"have {text.shape[1]} tokens; encode them again or raise max_tokens."
            )
        padded = nn.functional.pad(text, (0, 0, 0, self.max_tokens - text.shape[1]))
        return Context(self.connector(padded.to(self.connector.linear_1.weight.dtype)))

    def lengths(self, images: Mapping[str, Tensor]) -> dict[str, int]:
        """`max_tokens`, whatever there is to see."""
        return {"": self.max_tokens}

    def null(self, batch: int) -> Context:
        """The context of the empty instruction; its features are kept while the tower is frozen."""
        if self._tower_trains():
            return self.context(self.features([""] * batch))
        weight = self._first_weight()
        key = (weight.device, weight.dtype)
        if key not in self._null:
            self._null[key] = self.features([""])["text"]
        return self.context({"text": self._null[key].expand(batch, -1, -1)})

    def fingerprint(self) -> str:
        """Digest of the sizes, dtype, tokenizer and weights of the tower.

        It reads the named folders, so it speaks for a frozen tower only.
        """
        digest = hashlib.sha256(json.dumps(self.sizes, sort_keys=True).encode())
        digest.update(f"{self.max_tokens} {self.dtype}".encode())
        if self.tokenizer is not None:
            for file in sorted(resolve_folder(self.tokenizer).glob("*token*")):
                digest.update(file.read_bytes())
        if self.weights is not None:
            digest.update(fingerprint_of(resolve_folder(self.weights)).encode())
        else:
            for name, value in self.tower.state_dict().items():
                digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _first_weight(self) -> Tensor:
        return next(self.tower.parameters())

    def _tower_trains(self) -> bool:
        return any(parameter.requires_grad for parameter in self.tower.parameters())

    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.tokenizer)
            size = len(self._tokenizer)
            if size > self.sizes["vocab_size"]:
                raise ConfigError(
                    f"model.context.init_args.tokenizer: {self.tokenizer} has {size} tokens, but "
                    f"vocab_size is {self.sizes['vocab_size']}; take the encoder's own tokenizer."
                )
        return self._tokenizer


def _meta() -> torch.device:
    return torch.device("meta")
