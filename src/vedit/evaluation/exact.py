"""Score edits whose exact target is known: was the right edit made, and how closely.

Frames are uint8, so that what is scored is what a viewer sees. A *case* is one source clip; it
has one target and one output for each edit asked of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

PSNR_CEILING = 100.0
"""Stands for equal clips where a finite number is needed, in dB."""

AMBIGUOUS_FROM = 25.0
"""Two targets of a clip this alike, in dB, are not told apart by the accuracy."""

CHANGES_BELOW = 22.0
"""Fidelity is judged where the target differs from the source by this much, in dB."""


@dataclass(frozen=True)
class SampleScore:
    """One edit of one clip.

    Attributes:
        clip: Name of the case.
        edit: The edit asked for.
        nearest: The edit whose target the output is closest to, of those it could be confused
            with; ``edit`` itself when the output is right.
        rivals: How many other edits the output was compared with.
        psnr_edit: PSNR of output and target, in dB.
        psnr_source: PSNR of source and target, in dB: what doing nothing scores.
    """

    clip: str
    edit: str
    nearest: str
    rivals: int
    psnr_edit: float
    psnr_source: float

    @property
    def right(self) -> bool:
        """Whether the output shows the edit asked for."""
        return self.nearest == self.edit

    @property
    def changes(self) -> bool:
        """Whether the edit changes this clip enough for its fidelity to count."""
        return self.psnr_source < CHANGES_BELOW


@dataclass(frozen=True)
class Scores:
    """Means over samples; None where no sample counts.

    Attributes:
        samples: Number of samples.
        instruction_accuracy: Share of right samples, among those that have a rival.
        psnr_edit: Mean over the samples that change, in dB.
        psnr_source: The same, in dB.
        psnr_gain: Mean of ``psnr_edit - psnr_source`` over the same samples, in dB.
        mistaken_for: The edits that wrong outputs are closest to, most frequent first.
    """

    samples: int
    instruction_accuracy: float | None
    psnr_edit: float | None
    psnr_source: float | None
    psnr_gain: float | None
    mistaken_for: tuple[str, ...] = ()


def psnr(first: Tensor, second: Tensor, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio, 10 log10(peak^2 / MSE), over a whole clip.

    Args:
        first: Frames of any shape and type.
        second: The same shape.
        peak: Largest possible difference: 255 for uint8, 2 for [-1, 1].

    Returns:
        Decibels; infinity if the two are equal.

    Raises:
        ValueError: The shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"psnr of {tuple(first.shape)} and {tuple(second.shape)}: shapes differ")
    error = (first.double() - second.double()).square().mean()
    return float(10 * torch.log10(peak**2 / error))


def score_case(
    clip: str, source: Tensor, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> list[SampleScore]:
    """Compare each output of a clip with the targets of all its edits.

    An output is right when no rival target is as close to it as the one asked for. A rival is
    every other edit's target, except those within `AMBIGUOUS_FROM` of the one asked for.

    Args:
        clip: Name of the case.
        source: uint8 (F, H, W, 3).
        outputs: By edit, uint8 (F, H, W, 3).
        targets: By edit, of the same shape; at least the edits of ``outputs``.

    Returns:
        A score for each output, in their order.

    Raises:
        ValueError: An output has no target.
    """
    scores = []
    for edit, output in outputs.items():
        if edit not in targets:
            raise ValueError(f"{clip}: output '{edit}' has no target")
        target = targets[edit]
        rivals = [
            name
            for name, other in targets.items()
            if name != edit and psnr(other, target) < AMBIGUOUS_FROM
        ]
        closeness = {name: psnr(output, targets[name]) for name in rivals}
        nearest = max(rivals, key=closeness.__getitem__, default=edit)
        achieved = psnr(output, target)
        if nearest != edit and achieved > closeness[nearest]:
            nearest = edit
        scores.append(SampleScore(clip, edit, nearest, len(rivals), achieved, psnr(source, target)))
    return scores


def instruction_accuracy(
    outputs: Mapping[str, Mapping[str, Tensor]], targets: Mapping[str, Mapping[str, Tensor]]
) -> float | None:
    """Share of outputs that show the edit asked for, see `score_case`.

    Args:
        outputs: By clip, then by edit, uint8 (F, H, W, 3).
        targets: The same for the exact targets; may hold more edits than were asked for.

    Returns:
        0 to 1; None if no output has a rival.
    """
    scores: list[SampleScore] = []
    for clip, edits in outputs.items():
        source = next(iter(targets[clip].values()))  # plays no part in the accuracy
        scores += score_case(clip, source, edits, targets[clip])
    return summarise(scores).instruction_accuracy


def psnr_gain(scores: Iterable[SampleScore]) -> float | None:
    """Mean of PSNR(output, target) - PSNR(source, target), in dB.

    Only samples with PSNR(source, target) below `CHANGES_BELOW` count: where an edit hardly
    shows, copying the source would win.
    """
    return summarise(scores).psnr_gain


def summarise(scores: Iterable[SampleScore]) -> Scores:
    """Average the scores of samples."""
    rows = list(scores)
    judged = [s.right for s in rows if s.rivals]
    changed = [s for s in rows if s.changes]
    # Clips that are equal have no finite PSNR, but must not swallow the mean.
    reached = [min(s.psnr_edit, PSNR_CEILING) for s in changed]
    started = [s.psnr_source for s in changed]
    wrong = Counter(s.nearest for s in rows if not s.right)
    return Scores(
        samples=len(rows),
        instruction_accuracy=_mean(judged),
        psnr_edit=_mean(reached),
        psnr_source=_mean(started),
        psnr_gain=_mean([r - s for r, s in zip(reached, started, strict=True)]),
        mistaken_for=tuple(edit for edit, _ in wrong.most_common()),
    )


def per_edit(scores: Iterable[SampleScore]) -> dict[str, Scores]:
    """Average the scores of each edit, by name in the order of their first samples."""
    groups: dict[str, list[SampleScore]] = {}
    for score in scores:
        groups.setdefault(score.edit, []).append(score)
    return {edit: summarise(rows) for edit, rows in groups.items()}


def _mean(values: list[float] | list[bool]) -> float | None:
    return fmean(values) if values else None
