"""What a sweep is made of: the grid, its cells, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["finished", "failed", "running", "waiting", "cancelled"]

Overrides = Mapping[str, Any]
"""Dotted keys of an experiment with their values, as on the command line of `vedit fit`."""


@dataclass(frozen=True)
class Stage:
    """A training that comes before a cell's own.

    Attributes:
        name: of the stage.
        overrides: over the cell's own.
        files: configuration files it puts over those of the cell, before any overrides.
        share: of the cell's budget; None leaves its length to the files and overrides.
    """

    name: str
    overrides: Overrides = field(default_factory=dict)
    files: tuple[str, ...] = ()
    share: float | None = None


@dataclass(frozen=True)
class Option:
    """One of the values of an axis.

    Attributes:
        name: in the grid file and in tables.
        overrides: what it changes; empty for the base as it is.
        files: configuration files it puts over base and overlay, before any overrides.
        stages: trainings that come first, in order, each starting where the one before ended.
    """

    name: str
    overrides: Overrides = field(default_factory=dict)
    files: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class Budget:
    """How long cells train.

    Attributes:
        steps: optimizer steps of each cell, all stages together; with `match`, of the baseline
            alone.
        flops: operations of each cell's training, all stages together, from which its steps follow.
        match: whether the other cells get as many operations as the baseline.
    """

    steps: int | None = None
    flops: float | None = None
    match: bool = False


@dataclass(frozen=True)
class Metric:
    """A number to collect from every run.

    Attributes:
        name: in tables.
        key: into the run's `report.json`, such as "held_out.psnr_gain", or a logged scalar such as
            "val/loss", whose last value counts.
        better: which direction is better; None if neither is.
        digits: after the decimal point.
    """

    name: str
    key: str
    better: Literal["higher", "lower"] | None = None
    digits: int = 2


@dataclass(frozen=True)
class Table:
    """How results are laid out.

    Attributes:
        rows: axes that vary down the table.
        columns: axes that vary across it.
        metrics: names of metrics to show, in order.
        caption: what the table shows.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class PublishedRow:
    """Numbers that a paper gives for one cell.

    Attributes:
        options: option by axis; axes left out match any option.
        values: number by the paper's name of the metric.
    """

    options: Mapping[str, str]
    values: Mapping[str, float]


@dataclass(frozen=True)
class Published:
    """A paper's version of the table.

    Attributes:
        source: paper and table.
        note: what differs from these runs.
        rows: of the table.
    """

    source: str
    note: str = ""
    rows: tuple[PublishedRow, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A grid file, typed.

    Attributes:
        name: of the sweep; the stem of the file unless it says otherwise.
        base: files of the experiment that every cell starts from, those of the overlay last.
        overlays: the latter, which also go over the experiments of earlier stages.
        axes: options by axis, in the order of the file.
        cells: option by axis of every cell, in order; an axis that does not apply is missing.
        seeds: each cell runs once per seed.
        metrics: to collect.
        table: layout of the results.
        budget: how long cells train; None leaves it to the experiment.
        baseline: option by axis of the cell that the others are compared with.
        overrides: common to all cells, below those of the options.
        video: (frames, height, width) to count tokens and operations at; None takes the size of
            the first training sample.
        published: numbers of papers.
        title: one line that says what the grid asks.
        file: where it was read from.
    """

    name: str
    base: tuple[str, ...]
    axes: Mapping[str, Mapping[str, Option]]
    cells: tuple[Mapping[str, str], ...]
    seeds: tuple[int, ...]
    metrics: tuple[Metric, ...]
    table: Table
    budget: Budget | None = None
    baseline: Mapping[str, str] = field(default_factory=dict)
    overrides: Overrides = field(default_factory=dict)
    video: tuple[int, int, int] | None = None
    published: tuple[Published, ...] = ()
    title: str = ""
    file: str = ""
    overlays: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run of a grid: a choice of options, and a seed.

    Attributes:
        name: the options in words, the same for all seeds.
        options: option by axis.
        overrides: over the base, of the grid and of all options together.
        seed: of the run.
        digest: names the content of the run: its resolved configuration with the seed.
    """

    name: str
    options: Mapping[str, str]
    overrides: Overrides
    seed: int
    digest: str


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        cell: which one.
        state: "waiting" has not begun or was interrupted, and begins or resumes with the sweep.
        metrics: number by metric's name; those that a run has not produced are missing.
        per_clip: metric's name -> sample's key -> number; keys agree between cells and seeds, so
            that differences can be paired. Metrics without a number per sample are missing.
        folder: of the run: logs, checkpoints, `report.json` and `samples`.
        seconds: of training so far, resumed parts added up.
        parameters: that train; None if unknown.
        tokens: of one sample; None if unknown.
        flops: of the whole training, all stages; None if unknown.
        note: where a run stands, or why it failed: one line.
    """

    cell: Cell
    state: State
    metrics: Mapping[str, float] = field(default_factory=dict)
    per_clip: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    folder: Path = Path()
    seconds: float = 0.0
    parameters: int | None = None
    tokens: int | None = None
    flops: float | None = None
    note: str = ""
