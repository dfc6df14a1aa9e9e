"""Hidden states of several layers of a vision-language model as tokens.

Source: MiVE (arXiv 2605.14664, section 4.2).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vedit.backbones.base import BackboneSpec
from vedit.context.base import check_streams
from vedit.context.frames import Views
from vedit.context.multiscale_adapter import MultiscaleAdapter
from vedit.context.prompt import Prompt, SpecialIds, chat, check_words
from vedit.context.shown import Mode, Shown
from vedit.context.vlm import trains
from vedit.context.vlm_encoder import VLMEncoder
from vedit.errors import ConfigError
from vedit.tokens import Context
from vedit.transfer import sent

KEY = "model.context.init_args"


class MultiscaleVLM(VLMEncoder):
    """What several layers of a vision-language model make of source, reference and instruction.

    Every token of the prompt becomes one token of the context: its states in the asked layers, each
    through a branch of its own, side by side, fused. `tower` is the model, `connector` the
    adapter. Features are the asked states themselves, so a frozen model need run once per sample;
    blocks of the language model above the highest asked layer are not kept.

    With `streams`, layers are not fused: the last of `layers` is the main stream and each other one
    a stream with a key/value branch of its own in the backbone's cross-attention.

    The null context, for guidance, is that of the empty instruction without pictures; what the
    pictures add to the context is therefore guided too.

    Args:
        spec: sizes of the backbone.
        weights: folder or hub id of the model, None for random weights.
        layers: which states to read, as transformers numbers hidden states: 0 for the embeddings,
            k for what leaves k blocks, the number of blocks or -1 for what leaves the last norm, -2
            for what leaves the block before the last. The paper's first and last layers are 1 and
            -1.
        keep: which tokens of the prompt become context: "all" (the paper has as many conditional
            tokens as the prompt has), "text" without those that stand for pictures, or "vision",
            only those.
        streams: names of the streams for all layers but the last, in their order; empty fuses all.
        branch_width: width of each fused branch, None divides the backbone's width among them.
        instruction_last: whether the instruction follows the pictures. In a causal model it sees
            them only then; if it comes first, they see it instead.
        config: sizes of the model, or the folder or file that holds them; None takes those of
            `weights`.
        tokenizer: folder or hub id of the tokenizer.
        views: what of videos and images the tower is shown.
        prompt: the words around them; the paper names none.
        max_references: how many references are read, the first ones; None reads all.
        dtype: in which the model is held; the adapter stays in the default type.
        special_ids: ids of the marks in a prompt; None asks the tokenizer.
        gradient_checkpointing: compute layers again on the way back, which spares memory.

    Raises:
        ConfigError: if the model has no such layer, or the backbone's blocks no such stream.
    """

    connector: MultiscaleAdapter
    on_host = ("valid",)

    def __init__(
        self,
        spec: BackboneSpec,
        weights: str | None = None,
        layers: Sequence[int] = (1, -1),
        keep: Literal["all", "text", "vision"] = "all",
        streams: Sequence[str] = (),
        branch_width: int | None = None,
        instruction_last: bool = True,
        config: dict[str, Any] | str | None = None,
        tokenizer: str | None = None,
        views: Views = Views(),  # noqa: B008 (frozen)
        prompt: Prompt = Prompt(system=None, reference_suffix=""),  # noqa: B008 (frozen)
        max_references: int | None = 1,
        dtype: Literal["float32", "bfloat16"] = "float32",
        special_ids: SpecialIds | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(
            weights=weights,
            config=config,
            tokenizer=tokenizer,
            views=views,
            prompt=prompt,
            max_references=max_references,
            dtype=dtype,
            special_ids=special_ids,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.layers = checked_layers(layers, self.config.get_text_config().num_hidden_layers)
        self.keep, self.instruction_last = keep, instruction_last
        self.streams = _checked_streams(spec, streams, self.layers)
        with torch.device("meta") if weights is not None else nullcontext():
            self.connector = MultiscaleAdapter(
                self.hidden_size, spec.width, len(self.layers), not self.streams, branch_width
            )
        self._null: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
        if weights is None:
            keep_blocks(self.tower, max(self.layers))

    def load_weights(self) -> None:
        """Load the model and its tokenizer strictly; the adapter is new.

        Raises:
            WeightsError: if a folder is missing, or its tensors do not fit.
            ConfigError: if the tokenizer does not fit.
        """
        self.load_tower()
        keep_blocks(self.tower, max(self.layers))
        if next(self.connector.parameters()).is_meta:
            self.connector.to_empty(device="cpu").reset_parameters()
        self._null.clear()

    def features(
        self, instruction: Sequence[str], images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """States of the asked layers.

        Args:
            instruction: B instructions.
            images: "source" (B, 3, F, H, W), "reference" (B, 3, 1, h, w) and further ones, in
                [-1, 1] and all optional; other names are not read.

        Returns:
            "hidden.k" (B, L, E) for each layer k, zeros behind the end of shorter prompts, and
            "valid" (B, L) bool, False there.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains(self.tower)):
            return self._states(super().features(instruction, images))

    def context(self, features: Mapping[str, Tensor]) -> Context:
        """Adapt the states of every layer.

        Args:
            features: what `features` returned, perhaps stored in between.

        Returns:
            Tokens (B, L, D), with a mask if prompts differ in length; with `streams`, one such
            context for each.
        """
        adapted = self.connector([features[_named(layer)] for layer in self.layers])
        valid = features["valid"].bool()
        whole = bool(valid.cpu().numpy().all())
        mask = None if whole else sent(valid, adapted[0].device)
        *others, main = (Context(tokens, mask) for tokens in adapted)
        return Context(main.tokens, mask, dict(zip(self.streams, others, strict=True)))

    def null(self, batch: int) -> Context:
        """The context of the empty instruction without pictures, `batch` times.

        Its features are kept while the model is frozen.
        """
        weight = next(self.tower.parameters())
        key = (weight.device, weight.dtype)
        found = self._null.get(key)
        if found is None or trains(self.tower):
            found = self.features([""], {})
            found = self._null[key] = {**found, "valid": found["valid"].cpu()}
        return self.context({k: v.expand(batch, *v.shape[1:]) for k, v in found.items()})

    @property
    def stored_features_hold(self) -> bool:
        """Whether the model is frozen: it makes the features."""
        return not trains(self.tower)

    def fingerprint(self) -> str:
        """Digest of what features depend on; it speaks for a frozen model only."""
        said = [super().fingerprint(), self.layers, self.keep, self.instruction_last]
        digest = hashlib.sha256(json.dumps(said).encode())
        if self.weights is None:
            language: Any = self.tower.language_model
            for name, value in language.state_dict().items():
                digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _text(self, instruction: str, mode: Mode, pictures: Sequence[Shown]) -> str:
        """The prompt: source, references and instruction, or the instruction first."""
        words = check_words(instruction)
        words += self.prompt.reference_suffix if mode == "reference" else ""
        places = "".join(one.words(self.merge) for one in pictures)
        content = places + words if self.instruction_last else words + places
        return chat(self.prompt.system, content)

    def _states(self, prompts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the language model and move the tokens that are kept to the front."""
        ids, special = prompts["ids"], self.words.special
        kept = torch.arange(ids.shape[1], device=ids.device) < prompts["length"][:, None]
        if self.keep != "all":
            pictures = (ids == special.image) | (ids == special.video)
            kept = kept & (pictures if self.keep == "vision" else ~pictures)
        count = int(kept.sum(dim=1).max())
        order = kept.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        valid = kept.gather(1, order)
        found = {"valid": valid}
        hidden = self.hidden_states(self._within(prompts), layers=self.layers)
        for layer, states in zip(self.layers, hidden, strict=True):
            rows = states.gather(1, order[..., None].expand(-1, -1, states.shape[-1]))
            found[_named(layer)] = rows * valid[..., None]
        return found

    def _within(self, prompts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without what DeepStack adds to the states behind the highest asked layer."""
        depth = max(self.layers)
        beyond = {name for name in prompts if name.startswith("deep.")}
        beyond -= {f"deep.{i:02d}" for i in range(depth - 1)}
        return {name: value for name, value in prompts.items() if name not in beyond}


def checked_layers(layers: Sequence[int], count: int) -> tuple[int, ...]:
    """The numbers of states to read, counted from the embeddings.

    Args:
        layers: as configured, negative ones counted from the end.
        count: blocks of the language model.

    Returns:
        Numbers from 0 to `count`.

    Raises:
        ConfigError: if there is none, one is out of range, or one is named twice.

    Examples:
        >>> checked_layers([1, -1], 36)
        (1, 36)
    """
    for layer in layers:
        if not -count - 1 <= layer <= count:
            raise ConfigError(
                f"{KEY}.layers is {list(layers)}, but there is no {layer}: the model has {count} "
                f"blocks, expected 0 (the embeddings) to {count}, or {-count - 1} to -1 (the last)"
            )
    found = tuple(layer % (count + 1) for layer in layers)
    if not found or len(set(found)) < len(found):
        raise ConfigError(f"{KEY}.layers is {list(layers)}, expected one or more, each once")
    return found


def keep_blocks(tower: nn.Module, count: int) -> None:
    """Drop what the language model computes behind its first blocks.

    Args:
        tower: the model; its `language_model` then ends with the states behind `count` blocks.
        count: blocks to keep; if they are all, the last norm stays.
    """
    language: Any = tower.language_model
    if count < len(language.layers):
        language.layers = language.layers[:count]
        language.norm = nn.Identity()


def _checked_streams(
    spec: BackboneSpec, streams: Sequence[str], layers: Sequence[int]
) -> tuple[str, ...]:
    if streams and len(streams) != len(layers) - 1:
        raise ConfigError(
            f"{KEY}.streams is {list(streams)}, expected {len(layers) - 1} names for "
            f"{len(layers)} layers, of which the last is the main stream, or none to fuse them"
        )
    check_streams(spec, streams)
    return tuple(streams)


def _named(layer: int) -> str:
    return f"hidden.{layer:02d}"
