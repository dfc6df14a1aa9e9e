"""Learnable queries that a multimodal language model fills with what is to be edited, and how.

Source: Kiwi-Edit (arXiv 2603.02175, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vedit.backbones.base import BackboneSpec
from vedit.context.connectors import QueryConnector, QueryCounts
from vedit.context.frames import Views
from vedit.context.prompt import IMAGE, Prompt, SpecialIds
from vedit.context.shown import MODES, Mode, shown
from vedit.context.vlm import nothing
from vedit.context.vlm_encoder import VLMEncoder
from vedit.errors import DataError, WeightsError
from vedit.folders import resolve_folder
from vedit.tokens import Context
from vedit.transfer import sent
from vedit.weights import load_strictly, tensors

STEMS = ("diffusion_pytorch_model", "mllm_encoder")
"""File names of queries and connectors, beside the shards of the language model."""
BANKS = {"image_queries": "image", "video_queries": "video", "ref_queries": "reference"}


class MLLMQueries(VLMEncoder):
    """The final states of learnable queries, and of the reference's tokens before them.

    `tower` is the vision-language model, `connector` the queries and perceptrons. The language
    model runs in `context`, so that gradients reach the queries and adapters of the language model;
    only what the frozen vision tower saw is stored.

    The null context, for guidance, is that of the empty instruction without images, from the
    queries for video (or those of `null_mode`).

    Args:
        spec: sizes of the backbone.
        weights: folder or hub id of the model, None for random weights.
        config: its sizes, or the folder or file that holds them; None takes those of `weights`.
        tokenizer: folder or hub id of the tokenizer.
        queries: folder or hub id of queries and connectors to start from, None for fresh ones.
        counts: how many queries each kind of prompt has.
        readout: "last" keeps as many positions at the end of the prompt as there are queries, two
            of which are the end of the turn, as the released weights need; "queries" keeps the
            places of the queries.
        reference_readout: "last" keeps the tokens of the last picture, as the released code does;
            "all" those of every reference; "none" keeps none, so that queries alone speak of it.
        max_references: how many references are read, the first ones; None reads all.
        views: what of videos and images the tower is shown.
        prompt: the words around them.
        null_mode: which queries read a prompt without images.
        dtype: in which the model is held; queries and connectors stay in the default type.
        special_ids: ids of the marks in a prompt; None asks the tokenizer.
        gradient_checkpointing: compute layers again on the way back, which spares memory.
    """

    connector: QueryConnector
    on_host = ("ids", "length", "mode")

    def __init__(
        self,
        spec: BackboneSpec,
        weights: str | None = None,
        config: dict[str, Any] | str | None = None,
        tokenizer: str | None = None,
        queries: str | None = None,
        counts: QueryCounts = QueryCounts(),  # noqa: B008 (frozen)
        readout: Literal["last", "queries"] = "last",
        reference_readout: Literal["last", "all", "none"] = "last",
        max_references: int | None = 1,
        views: Views = Views(),  # noqa: B008 (frozen)
        prompt: Prompt = Prompt(),  # noqa: B008 (frozen)
        null_mode: Literal["image", "video"] = "video",
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
        self.queries, self.counts, self.null_mode = queries, counts, null_mode
        self.readout, self.reference_readout = readout, reference_readout
        self.connector = QueryConnector(self.hidden_size, spec.width, counts)
        if weights is None and queries is not None and not self.connector.image_queries.is_meta:
            self.load_weights()  # whoever builds this calls it only if there are `weights`

    def placeholders(self, mode: Mode) -> int:
        """How many places for queries stand at the end of the user's turn."""
        counts = self.counts
        return {"image": counts.image, "video": counts.video, "reference": counts.reference}[mode]

    def load_weights(self) -> None:
        """Load the model, the tokenizer, queries and connectors; what has no weights is drawn.

        Raises:
            WeightsError: if a folder is missing, or its tensors do not fit.
            ConfigError: if the tokenizer does not fit.
        """
        self.load_tower()
        if self.queries is not None:
            self._load_queries(resolve_folder(self.queries))
        elif self.connector.image_queries.is_meta:
            self.connector.to_empty(device="cpu")
            self.connector.reset_parameters()

    def context(self, features: Mapping[str, Tensor]) -> Context:
        """Run the language model with the queries, and read them out.

        Args:
            features: what `features` returned, perhaps stored in between.

        Returns:
            Tokens (B, M + N, D): M of the reference, N of queries. All are attended to, unless the
            references of the samples differ in size.

        Raises:
            DataError: if samples of different kinds share the batch.
        """
        mode = _mode_of(features["mode"])
        length = features["length"]
        longest = max(length.tolist())
        cut = {"ids": features["ids"][:, :longest], "positions": features["positions"][:, :longest]}
        (hidden,) = self.hidden_states({**features, **cut}, self.connector.queries(mode))
        reference, valid = None, None
        read, _ = _selected(hidden, self._read(cut["ids"], length, mode))
        if mode == "reference" and self.reference_readout != "none":
            reference, valid = _selected(hidden, self._reference(cut["ids"]))
        if valid is not None:
            valid = torch.cat([valid, valid.new_ones(read.shape[:2])], dim=1)
        return Context(self.connector(read, reference, mode), valid)

    def lengths(self, images: Mapping[str, Tensor]) -> dict[str, int]:
        """The queries of the kind of prompt, and the tokens of the reference that are kept."""
        mode, pictures = shown(images, self.views, self.geometry, self.max_references)
        kept = [one.tokens(self.merge) for one in pictures if one.token == IMAGE]
        many = {"last": kept[-1:], "all": kept, "none": []}[self.reference_readout]
        return {"": self.placeholders(mode) + (sum(many) if mode == "reference" else 0)}

    def null(self, batch: int) -> Context:
        """The context of the empty instruction without images, `batch` times."""
        rows = [self.words.ids(self._text("", self.null_mode, ()))]
        features = self._features(rows, (), self.null_mode, nothing(self.tower, 1))
        return Context(self.context(features).tokens.expand(batch, -1, -1))

    def _read(self, ids: Tensor, length: Tensor, mode: Mode) -> Tensor:
        """Which positions (B, L) are read out for the queries."""
        if self.readout == "queries":
            return ids == self.words.special.query
        index = torch.arange(ids.shape[1], device=ids.device)
        end = length[:, None]
        return (index < end) & (index >= end - self.placeholders(mode))

    def _reference(self, ids: Tensor) -> Tensor:
        """Which positions (B, L) are read out for the reference."""
        special = self.words.special
        if self.reference_readout == "all":
            return ids == special.image
        index = torch.arange(ids.shape[1], device=ids.device)
        start = torch.where(ids == special.vision_start, index, -1).amax(dim=1, keepdim=True)
        behind = (ids == special.vision_end) & (index > start)
        end = torch.where(behind, index, ids.shape[1]).amin(dim=1, keepdim=True)
        return (index > start) & (index < end)

    def _load_queries(self, folder: Path) -> None:
        found = tensors(folder, stems=STEMS)
        for name, mode in BANKS.items():
            have, want = found.get(name), getattr(self.counts, mode)
            if have is not None and have.shape[0] != want:
                raise WeightsError(
                    f"{folder}: {name} holds {have.shape[0]} queries, but "
                    f"model.context.init_args.counts.{mode} is {want}; set it to {have.shape[0]}."
                )
        load_strictly(self.connector, found, str(folder), dtype=torch.get_default_dtype())


def _mode_of(modes: Tensor) -> Mode:
    kinds = set(modes.tolist())
    if len(kinds) > 1:
        names = " and ".join(MODES[int(kind)] for kind in sorted(kinds))
        raise DataError(f"a batch of {names} prompts: their queries differ, keep them apart")
    return MODES[int(kinds.pop())]


def _selected(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """States (B, M, E) at the masked positions; which of them count, if samples differ in M."""
    mask = mask.cpu()
    counts = mask.sum(dim=1)
    if len(set(counts.tolist())) == 1:
        places = torch.from_numpy(np.flatnonzero(mask.numpy()))
        picked = hidden.flatten(0, 1)[sent(places, hidden.device)]
        return picked.unflatten(0, (hidden.shape[0], -1)), None
    order = mask.int().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
    valid = sent(mask.gather(1, order), hidden.device)
    index = sent(order, hidden.device)[..., None].expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, index), valid
