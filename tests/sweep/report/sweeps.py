"""Sweeps that were never run: outcomes made up, with the files that runs leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tests.clips import moving

from vedit.sweep.records import (
    Cell,
    Grid,
    Metric,
    Option,
    Outcome,
    Published,
    PublishedRow,
    State,
    Table,
)
from vedit.video import write_video

AXES = {"training": ("full", "LoRA"), "source": ("add", "sequence")}
METRICS = (
    Metric("accuracy", "held_out.instruction_accuracy", "higher", 2),
    Metric("gain", "held_out.psnr_gain", "higher", 1),
    Metric("loss", "val/loss", "lower", 3),
)
PUBLISHED = Published(
    "Paper_A, Table 3",
    "Score of 0 to 9.",
    (
        PublishedRow({"training": "full", "source": "add"}, {"score": 4.67}),
        PublishedRow({"training": "LoRA", "source": "sequence"}, {"score": 7.05}),
    ),
)
KEYS = tuple(f"{clip}/{edit}" for clip in ("bikes", "face") for edit in ("negative", "tint 50%"))


def make_grid(seeds: Sequence[int] = (0, 1), columns: tuple[str, ...] = ()) -> Grid:
    """Two axes of two options each; the last cell is the baseline."""
    axes = {axis: {name: Option(name) for name in names} for axis, names in AXES.items()}
    cells = tuple(
        {"training": one, "source": two} for one in axes["training"] for two in AXES["source"]
    )
    return Grid(
        name="architecture",
        base=("experiment.yaml",),
        axes=axes,
        cells=cells,
        seeds=tuple(seeds),
        metrics=METRICS,
        table=Table(tuple(axis for axis in axes if axis not in columns), columns),
        baseline=cells[-1],
        published=(PUBLISHED,),
        title="What trains, and how the source enters",
    )  # fmt: skip


def made(
    grid: Grid, gains: Mapping[int, float], states: Mapping[tuple[int, int], State] | None = None
) -> list[Outcome]:
    """Outcomes whose gain is that of their cell, a little different on every clip and seed.

    Args:
        grid: the grid.
        gains: by number of the cell.
        states: by number of the cell and seed, where a run has not finished.
    """
    outcomes = []
    for i, choice in enumerate(grid.cells):
        name = ",".join(f"{axis}={option}" for axis, option in choice.items())
        for seed in grid.seeds:
            cell = Cell(name, choice, {}, seed, f"{i}{seed}" * 6)
            state = (states or {}).get((i, seed), "finished")
            clips = {key: gains[i] + 0.3 * n + 0.05 * seed for n, key in enumerate(KEYS)}
            mean = sum(clips.values()) / len(clips)
            numbers = {"accuracy": gains[i] / 10, "gain": mean, "loss": 1 / (1 + gains[i])}
            done = state == "finished"
            outcomes.append(
                Outcome(
                    cell=cell,
                    state=state,
                    metrics=numbers if done else {},
                    per_clip={"gain": clips} if done else {},
                    seconds=60.0 * (i + 1),
                    parameters=1_000_000 * (i + 1),
                    tokens=84 * (i + 1),
                    note="" if state != "failed" else "out of memory <at once>",
                )
            )
    return outcomes


def with_files(outcomes: Sequence[Outcome], folder: Path) -> list[Outcome]:
    """The same outcomes, each with a folder of samples and a log."""
    found = []
    for number, outcome in enumerate(outcomes):
        run = folder / "runs" / outcome.cell.digest
        (run / "samples").mkdir(parents=True)
        found.append(replace(outcome, folder=run))
        lines = [f"{step},{2 / (1 + step / 30) + number / 50}" for step in range(0, 100, 10)]
        (run / "metrics.csv").write_text("\n".join(["step,train/loss", *lines]) + "\n")
        if outcome.state != "finished":
            continue
        for key in KEYS:
            source = moving(3, 60, 80)
            output = (source.int() + 20 * number).clamp(0, 255).byte()
            sample = torch.cat([source, output, 255 - source], dim=2)
            name = f"{key.replace('/', '-')}.mp4".replace(" ", "_")
            write_video(run / "samples" / name, sample, 12)
    return found
