"""What the context encoders that read a vision-language model share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from vedit.context.base import ContextEncoder
from vedit.context.frames import Views
from vedit.context.positions import as_grids, grids_in_order, packed, rope_positions
from vedit.context.prompt import QUERY, VIDEO, Prompt, SpecialIds, chat, check_words
from vedit.context.shown import MODES, Mode, Shown, shown
from vedit.context.vlm import (
    STEMS,
    Seen,
    build_vlm,
    checkpoint_layers,
    in_order,
    joined,
    load_vlm,
    nothing,
    read,
    see,
    trains,
)
from vedit.context.vlm_config import check_sizes, geometry_of, tells_time, vlm_config
from vedit.context.words import Words
from vedit.folders import resolve_folder
from vedit.tokens import Grid
from vedit.transfer import sent
from vedit.weights import fingerprint_of


class VLMEncoder(ContextEncoder):
    """A vision-language model that reads source, instruction and references, in this order.

    Features are the token ids, their positions and what the vision tower saw: they may be cached
    while the vision tower is frozen, even if the language model trains.

    Args:
        weights: folder or hub id of the model, None for random weights.
        config: its sizes, or the folder or file that holds them; None takes those of `weights`.
        tokenizer: folder or hub id of the tokenizer.
        views: what of videos and images the tower is shown.
        prompt: the words around them.
        max_references: how many references are read, the first ones; None reads all.
        dtype: in which the model is held.
        special_ids: ids of the marks in a prompt; None asks the tokenizer.
        gradient_checkpointing: compute layers again on the way back, which spares memory.
    """

    reads_images = ("source", "reference")

    def __init__(
        self,
        weights: str | None = None,
        config: dict[str, Any] | str | None = None,
        tokenizer: str | None = None,
        views: Views = Views(),  # noqa: B008 (frozen)
        prompt: Prompt = Prompt(),  # noqa: B008 (frozen)
        max_references: int | None = 1,
        dtype: Literal["float32", "bfloat16"] = "float32",
        special_ids: SpecialIds | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.weights, self.tokenizer = weights, tokenizer
        self.views, self.prompt, self.max_references = views, prompt, max_references
        self.dtype = getattr(torch, dtype)
        self.config = vlm_config(config, weights)
        self._given = config if isinstance(config, Mapping) else {}
        self.geometry, self.tells_time = geometry_of(self.config), tells_time(self.config)
        self.hidden_size: int = self.config.get_text_config().hidden_size
        self.words = Words(tokenizer, self.config.get_text_config().vocab_size, special_ids)
        with torch.device("meta") if weights is not None else nullcontext():
            self.tower = build_vlm(self.config, dtype=self.dtype).eval()
        self.checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            checkpoint_layers(self.tower)

    def placeholders(self, mode: Mode) -> int:
        """How many places for queries stand at the end of the user's turn."""
        return 0

    def features(
        self, instruction: Sequence[str], images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Token ids, positions and the vision tower's output.

        Args:
            instruction: B instructions.
            images: "source" (B, 3, F, H, W), "reference" (B, 3, 1, h, w) and further ones, in
                [-1, 1] and all optional; other names are not read.

        Returns:
            "ids" (B, L), "positions" (B, L, 3), "length" (B,) of each prompt, "mode" (B,) an index
            of `MODES`, "vision" (B, V, E), and "deep.i" (B, V, E) where the model has them.

        Raises:
            ConfigError: if no tokenizer is named, or the model has no room for its tokens.
            DataError: if an instruction holds a mark of the chat, or a picture is too elongated.
        """
        mode, pictures = shown(
            images, self.views, self.geometry, self.max_references, self.tells_time
        )
        rows = [self.words.ids(self._text(words, mode, pictures)) for words in instruction]
        grids = [grid for one in pictures for grid in one.grids]
        seen = [see(self.tower, one.patches, [one.grid]) for one in pictures]
        return self._features(
            rows, grids, mode, joined(seen) if seen else nothing(self.tower, len(rows))
        )

    def lengths(self, images: Mapping[str, Tensor]) -> dict[str, int]:
        """Tokens that stand for pictures; those of words come on top."""
        shows = shown(images, self.views, self.geometry, self.max_references, self.tells_time)
        total = sum(one.tokens(self.merge) for one in shows[1])
        return dict.fromkeys(("", *self.streams), total)

    def features_of_ids(
        self,
        ids: Tensor,
        mode: Mode,
        images: tuple[Tensor, Tensor] | None = None,
        videos: tuple[Tensor, Tensor] | None = None,
        seconds: float | None = None,
    ) -> dict[str, Tensor]:
        """Features of one prompt that was tokenized, and pictures that were cut, elsewhere.

        Args:
            ids: (1, L) token ids, one for each merged patch and each query.
            mode: what the prompt shows.
            images: patches (P, E) and grids (n, 3) of the images, in order.
            videos: the same of the videos.
            seconds: from one group of frames to the next; None means what `views` says.

        Returns:
            What `features` returns, for one sample.

        Raises:
            DataError: if the pictures do not fit the places that the prompt has for them.
        """
        special = self.words.special
        given = {special.image: images, special.video: videos}
        pictures = {kind: (v[0], as_grids(v[1])) for kind, v in given.items() if v is not None}
        grids = {kind: list(grids) for kind, (_, grids) in pictures.items()}
        if self.tells_time and videos is not None:
            grids[special.video] = [(1, *g[1:]) for g in grids[special.video] for _ in range(g[0])]
        row = ids[0].tolist()
        ordered = grids_in_order(row, {kind: grids.get(kind, []) for kind in given}, self.merge)
        seen = {kind: see(self.tower, v[None], of_kind) for kind, (v, of_kind) in pictures.items()}
        return self._features([row], ordered, mode, in_order(self.tower, ids, seen), seconds)

    def hidden_states(
        self,
        features: Mapping[str, Tensor],
        queries: Tensor | None = None,
        layers: Sequence[int] = (-1,),
    ) -> list[Tensor]:
        """What the language model makes of prompts.

        Args:
            features: what `features` returned, perhaps stored in between.
            queries: (N, E) vectors that take the places for queries.
            layers: see `vedit.context.vlm.read`.

        Returns:
            (B, L, E) for each of `layers`; what stands behind the end of a shorter prompt means
            nothing.
        """
        ids, special = sent(features["ids"], features["vision"].device), self.words.special
        pictures = (ids == special.image) | (ids == special.video)
        inserted = [(pictures, features["vision"])]
        if queries is not None:
            inserted.append((ids == special.query, queries.expand(len(ids), -1, -1)))
        deep = [features[name] for name in sorted(features) if name.startswith("deep.")]
        if self.checkpointing:
            self.tower.train(torch.is_grad_enabled())  # transformers asks for training mode
        return read(self.tower, ids, features["positions"], inserted, (pictures, deep), layers)

    @property
    def stored_features_hold(self) -> bool:
        """Whether the vision tower is frozen: it makes the features."""
        return not trains(self.tower.get_submodule("visual"))

    def load_tower(self) -> None:
        """Load the model and its tokenizer strictly.

        Raises:
            WeightsError: if the weights are missing or do not fit.
            ConfigError: if the tokenizer does not fit.
        """
        if self.weights is not None:
            folder = resolve_folder(self.weights)
            check_sizes(self.config, self._given, folder)
            load_vlm(self.tower, folder, self.dtype)
        _ = self.words.special  # read the tokenizer now, not in the first step

    def fingerprint(self) -> str:
        """Digest of what features depend on: sizes, words, views, tokenizer and weights.

        It reads the named folders, so it speaks for a frozen vision tower only.
        """
        sizes = {k: v for k, v in self.config.to_dict().items() if k != "transformers_version"}
        said: list[Any] = [sizes, asdict(self.views), asdict(self.prompt), self.max_references]
        said += [str(self.dtype), [self.placeholders(mode) for mode in MODES]]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
        if self.tokenizer is not None:
            for file in sorted(resolve_folder(self.tokenizer).glob("*token*")):
                digest.update(file.read_bytes())
        if self.weights is not None:
            digest.update(fingerprint_of(resolve_folder(self.weights), STEMS).encode())
        else:
            visual: Any = self.tower.visual
            for name, value in visual.state_dict().items():
                digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def merge(self) -> int:
        """Side, in patches, of the square that one token stands for."""
        return self.geometry.merge

    def _text(self, instruction: str, mode: Mode, pictures: Sequence[Shown]) -> str:
        """The prompt: source, instruction, references, places for queries."""
        words = check_words(instruction)
        words += self.prompt.reference_suffix if mode == "reference" else ""
        places = [one.words(self.merge) for one in pictures]
        first = mode == "image" or bool(pictures and pictures[0].token == VIDEO)
        content = [*places[:first], words, *places[first:], QUERY * self.placeholders(mode)]
        return chat(self.prompt.system, "".join(content))

    def _features(
        self,
        rows: Sequence[list[int]],
        grids: Sequence[Grid],
        mode: Mode,
        seen: Seen,
        seconds: float | None = None,
    ) -> dict[str, Tensor]:
        """Features of prompts that show the same pictures, in different words."""
        special, device = self.words.special, seen.tokens.device
        step, kinds = self._time_step(seconds), (special.image, special.video)
        visual = [[token in kinds for token in row] for row in rows]
        positions = [rope_positions(each, grids, self.merge, step) for each in visual]
        ids, places, length = packed(rows, positions)
        modes = torch.full((len(rows),), MODES.index(mode))
        found = {"ids": ids, "positions": places, "length": length, "mode": modes}
        found = {n: v if n in self.on_host else sent(v, device) for n, v in found.items()}
        deep = {f"deep.{i:02d}": layer for i, layer in enumerate(seen.deep)}
        return found | {"vision": seen.tokens} | deep

    def _time_step(self, seconds: float | None) -> float:
        """Positions from one group of frames to the next."""
        if self.tells_time:
            return 0.0
        seconds = self.geometry.frames / self.views.fps if seconds is None else float(seconds)
        rate: float = self.config.vision_config.tokens_per_second
        return rate * (int(seconds) if self.views.whole_seconds else seconds)
