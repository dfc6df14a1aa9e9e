"""A twin of an editor, a few channels wide: it tells the sequence of any size of video at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vedit.backbones.base import Backbone, BackboneSpec
from vedit.batch import Conditions
from vedit.flow.draws import drawn_from
from vedit.model import EditModel
from vedit.packing import SideBySide
from vedit.references import reference_name, reference_names
from vedit.tokens import Context, Grid, TokenSequence

TWIN_WIDTH = 8


def context_lengths(system: Any, video: Grid, references: int) -> dict[str, int]:
    """Tokens of a sample's context by stream, see `ContextEncoder.lengths`.

    Args:
        system: built, on the meta device or not.
        video: (frames, height, width).
        references: reference images, if the reference slot is configured; they are taken to have
            the size of the video, since only they themselves tell theirs.

    Returns:
        Empty without a context encoder, or if it cannot tell.
    """
    if system.context is None:
        return {}
    images = {"source": torch.empty(1, 3, *video, device="meta")}
    if references and "reference" in system.make_injections:
        names = map(reference_name, range(references))
        images |= {name: torch.empty(1, 3, 1, *video[1:], device="meta") for name in names}
    lengths: dict[str, int] = system.context.lengths(images)
    return lengths


def tokens_of(system: Any, video: Grid, present: Collection[str]) -> int:
    """Tokens of one sample in the backbone's sequence.

    Args:
        system: built, on the meta device or not.
        video: (frames, height, width).
        present: conditions that the sample has, such as "source" or, of several references,
            "reference.1"; others append nothing.

    Returns:
        Their number; words that are appended do not count, since it depends on them.

    Raises:
        DataError: if the codec cannot take this size.
    """
    references = len(reference_names(present))
    lengths = context_lengths(system, video, references)
    with drawn_from("twin"):  # injections draw weights, which nobody sees
        sequence = twin_sequence(
            system, system.codec.latent_grid(*video), references, lengths, present
        )
    return sum(segment.tokens.shape[1] for segment in sequence.segments)


def twin_sequence(
    system: Any,
    grid: Grid,
    references: int,
    lengths: Mapping[str, int],
    present: Collection[str] | None = None,
) -> TokenSequence:
    """The sequence that the configured injections make, from a twin a few channels wide.

    Positions and visibility do not depend on the width, so a narrow twin tells them exactly and at
    once, while the real modules may be on the meta device.

    Args:
        system: built, on the meta device or not.
        grid: of the latents.
        references: reference images, if the reference slot is configured; 0 leaves it out.
        lengths: tokens of the context by stream.
        present: conditions that are there beside the instruction; None is every configured one.

    Returns:
        The segments.
    """
    real = system.model.backbone.spec
    spec = replace(real, width=TWIN_WIDTH, latent_channels=1)
    injections = {name: make(spec) for name, make in system.make_injections.items()}
    channels = {"latents": 1, "pixels": 3}  # those at the resolution of latents do as well
    latents = {
        name: torch.zeros(1, channels[injection.reads], *grid)
        for name, injection in injections.items()
        if name != "instruction" and (present is None or name in present)
    }
    if references and "reference" in latents:
        latents["reference"] = torch.zeros(1, 1, references, *grid[1:])
    else:
        latents.pop("reference", None)
    streams = {n: Context(torch.zeros(1, length, TWIN_WIDTH)) for n, length in lengths.items()}
    main = streams.pop("", Context(torch.zeros(1, 0, TWIN_WIDTH)))
    context = replace(main, streams=streams) if system.context else None
    model = EditModel(_Twin(spec), nn.ModuleDict(injections))
    with torch.no_grad():
        return model.sequence(
            torch.zeros(1, 1, *grid), torch.full((1,), 0.5), Conditions(latents, context)
        )


class _Twin(Backbone):
    """A backbone that only embeds."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.spec, self.weights, self.blocks = spec, None, nn.ModuleList()

    def embed(self, latents: Tensor) -> tuple[Tensor, Grid]:
        sizes = zip(latents.shape[2:], self.spec.patch, strict=True)
        t, h, w = (size // p for size, p in sizes)
        return torch.zeros(latents.shape[0], t * h * w, self.spec.width), (t, h, w)

    def forward(self, sequence: TokenSequence | SideBySide) -> Tensor | list[Tensor]:
        raise NotImplementedError

    def load_weights(self) -> None:
        raise NotImplementedError
