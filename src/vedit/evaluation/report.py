"""The report of a test: ``report.json`` for programs, ``report.html`` and clips for people."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vedit.evaluation.exact import PSNR_CEILING, SampleScore, per_edit, score_case, summarise
from vedit.evaluation.page import Strip, page
from vedit.evaluation.parts import Case, EditedSample, cases
from vedit.video import write_video

_VIEWED_HEIGHT = 180  # sample clips smaller than this are enlarged by a whole factor


@dataclass(frozen=True)
class RunFacts:
    """What is known of the run that was tested.

    Attributes:
        name: Of the run.
        checkpoint: That was tested, as a path.
        steps: Optimizer steps it was trained for; None if unknown.
        train_seconds: Time it was trained for; None if unknown.
        losses: Curves by name, each a list of (step, loss).
        attribution: For each source file: what it shows, by whom, on which terms.
    """

    name: str = "run"
    checkpoint: str | None = None
    steps: int | None = None
    train_seconds: float | None = None
    losses: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    attribution: Mapping[str, str] = field(default_factory=dict)


def write_report(
    output: str | Path, parts: str | Path, facts: RunFacts, fps: float = 12.0
) -> dict[str, Any]:
    """Score the edited samples and write the report.

    Args:
        output: Folder for ``report.json``, ``report.html`` and ``samples``.
        parts: Folder of edited samples, see `vedit.evaluation.parts`.
        facts: What is known of the run.
        fps: Rate of the sample clips.

    Returns:
        The content of ``report.json``.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    scores: list[SampleScore] = []
    strips: list[Strip] = []
    found = cases(Path(parts))
    for case in found:
        samples = case.samples()
        rows = _scores(case, samples)
        scores += rows
        for row, sample in zip(rows, samples.values(), strict=True):
            video = f"samples/{case.name}-{row.edit}.mp4".replace(" ", "_")
            _write_sample(output / video, sample, fps)
            strips.append(
                Strip(
                    row, sample.instruction, sample.clip, video,
                    sample.source, sample.output, sample.target,
                )
            )  # fmt: skip
    report = as_json(scores, facts)
    _write(output / "report.html", page(report, strips, facts))
    _write(output / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report


def as_json(scores: list[SampleScore], facts: RunFacts) -> dict[str, Any]:
    """The figures of a report; numbers that nothing supports are null."""
    total = asdict(summarise(scores))
    table = {
        edit: {**asdict(row), "mistaken_for": list(row.mistaken_for)}
        for edit, row in per_edit(scores).items()
    }
    return {
        "held_out": {
            "clips": len({s.clip for s in scores}),
            "edits": len(table),
            **{
                name: total[name]
                for name in ("instruction_accuracy", "psnr_edit", "psnr_source", "psnr_gain")
            },
        },
        "train_seconds": facts.train_seconds,
        "steps": facts.steps,
        "checkpoint": facts.checkpoint,
        "samples": total["samples"],
        "per_edit": table,
        "per_sample": {f"{s.clip}/{s.edit}": sample_json(s) for s in scores},
    }


def sample_json(score: SampleScore) -> dict[str, float]:
    """A sample's own figures, under the names of the means that they enter; others are left out."""
    found: dict[str, float] = {}
    if score.rivals:
        found["instruction_accuracy"] = float(score.right)
    if score.changes:
        reached = min(score.psnr_edit, PSNR_CEILING)
        found |= {"psnr_edit": reached, "psnr_source": score.psnr_source}
        found["psnr_gain"] = reached - score.psnr_source
    return found


def side_by_side(sample: EditedSample) -> Tensor:
    """Source, output and target next to each other, enlarged if small: uint8 (F, H, W, 3)."""
    row = torch.cat([sample.source, sample.output, sample.target], dim=2)
    factor = max(1, -(-_VIEWED_HEIGHT // row.shape[1]))
    return row.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def _scores(case: Case, samples: Mapping[str, EditedSample]) -> list[SampleScore]:
    source = next(iter(samples.values())).source
    outputs = {edit: sample.output for edit, sample in samples.items()}
    targets = {edit: sample.target for edit, sample in samples.items()}
    return score_case(case.name, source, outputs, targets)


def _write_sample(path: Path, sample: EditedSample, fps: float) -> None:
    # Small clips to look at: at the usual preset x264 would take a quarter of the whole test.
    write_video(path, side_by_side(sample), fps, preset="superfast")


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
