"""Read a grid file: what it says is typed here, and every mistake in it is told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vedit.sweep.combine import KEYS as COMBINING
from vedit.sweep.combine import clashes, matches, read_cells, read_choice
from vedit.sweep.experiments import Experiments, Tree
from vedit.sweep.options import keys_written, read_axes, read_files, read_overrides
from vedit.sweep.problems import Problems
from vedit.sweep.records import (
    Budget,
    Grid,
    Metric,
    Option,
    Published,
    PublishedRow,
    Table,
)

KEYS = (
    "title", "name", "base", "video", "overrides", "axes", *COMBINING, "seeds", "budget",
    "metrics", "table", "baseline", "published", "at",
)  # fmt: skip
"""The top level of a grid file."""

SECTION = ("video", "overrides", "seeds", "budget", "metrics")
"""What an overlay may say for all grids, under `sweep`."""

_BETTER: dict[Any, Literal["higher", "lower"]] = {"higher": "higher", "lower": "lower"}

Axes = Mapping[str, Mapping[str, Option]]


def read_grid(file: str, experiments: Experiments, overlays: Sequence[str] = ()) -> Grid:
    """Read a grid.

    An overlay is an experiment's file that puts the same grid at another scale. What it has under
    `sweep` goes over the grid, and so does what the grid has for it under `at`, by the end of the
    overlay's path without `.yaml`, such as `at: {nano/sweep: {seeds: [0]}}`.

    Args:
        file: the grid.
        experiments: reads the base.
        overlays: files over the base.

    Returns:
        The grid, typed.

    Raises:
        GridErrors: with every mistake.
        ConfigError: a file cannot be read.
    """
    problems = Problems(file)
    tree = experiments.read_yaml(Path(file))
    tree = _scaled(tree, experiments, overlays, problems)
    tree = problems.mapping("", tree, KEYS)
    grid = _typed(tree, file, experiments, overlays, problems)
    _check_whole(grid, problems)
    problems.stop()
    return grid


def _typed(
    tree: Tree,
    file: str,
    experiments: Experiments,
    overlays: Sequence[str],
    problems: Problems,
) -> Grid:
    def find(name: str) -> str:
        return experiments.find(name, Path(file))

    axes = read_axes(tree.get("axes"), find, problems)
    cells = read_cells(tree, axes, problems) if not problems.found or axes else ()
    clashes(axes, cells, problems)
    base = read_files("base", tree.get("base"), find, problems)
    if not base and not problems.found:
        problems.add("base", "missing; name the experiment that every cell starts from")
    metrics = _metrics(tree.get("metrics"), problems)
    return Grid(
        name=problems.text("name", tree.get("name", Path(file).stem)),
        base=(*base, *overlays),
        axes=axes,
        cells=cells,
        seeds=problems.listed("seeds", tree.get("seeds", [0]), of=int),
        metrics=metrics,
        table=_table(tree.get("table"), axes, metrics, problems),
        budget=_budget(tree.get("budget"), problems),
        baseline=_baseline(tree.get("baseline"), axes, cells, problems),
        overrides=read_overrides("overrides", tree.get("overrides"), problems),
        video=_video(tree.get("video"), problems),
        published=_published(tree.get("published"), axes, problems),
        title=problems.text("title", tree.get("title", "")),
        file=file,
        overlays=tuple(overlays),
    )


def _scaled(
    tree: Tree, experiments: Experiments, overlays: Sequence[str], problems: Problems
) -> Tree:
    """The grid at the scale of the overlays."""
    at = problems.mapping("at", tree.pop("at", None))
    for key, changes in at.items():
        problems.mapping(f"at.{key}", changes, KEYS)
    for overlay in overlays:
        section = experiments.sweep_section([overlay])
        where = Problems(overlay)
        tree = experiments.merge(tree, where.mapping("sweep", section, SECTION))
        problems.found += where.found
        path = str(Path(overlay).with_suffix(""))
        for key, changes in at.items():
            if f"/{path}".endswith(f"/{key}") and isinstance(changes, Mapping):
                tree = _replaced(experiments.merge(tree, changes), changes)
    return tree


def _replaced(merged: Tree, changes: Mapping[str, Any]) -> Tree:
    """Options that `at` names are the ones it gives, not mixtures of the two."""
    for axis, options in (changes.get("axes") or {}).items():
        if isinstance(options, Mapping):
            merged["axes"][axis] = {**merged["axes"][axis], **options}
    return merged


def _check_whole(grid: Grid, problems: Problems) -> None:
    if not grid.axes and not problems.found:
        problems.add("axes", "missing; name what varies")
    if not grid.seeds and not problems.found:
        problems.add("seeds", "expected at least one")
    if len(set(grid.seeds)) < len(grid.seeds):
        problems.add("seeds", f"one is given twice: {list(grid.seeds)}")
    for axis, options in grid.axes.items():
        for option in options.values() if grid.budget else ():
            for key in keys_written(option.overrides):
                if key == "trainer.max_steps":
                    where = f"axes.{axis}.{option.name}.{key}"
                    problems.add(where, "is the budget's to set")
    if "/" in grid.name or grid.name in ("", ".", ".."):
        problems.add("name", f"expected a folder name, got {grid.name!r}")


def _metrics(value: Any, problems: Problems) -> tuple[Metric, ...]:
    found = []
    for name, given in problems.mapping("metrics", value).items():
        key = f"metrics.{name}"
        known = ("key", "better", "digits")
        tree = {"key": given} if isinstance(given, str) else problems.mapping(key, given, known)
        if "key" not in tree:
            problems.add(f"{key}.key", "missing; name a number of the report or a logged scalar")
        better = _BETTER.get(str(tree.get("better")))
        if better is None and "better" in tree:
            problems.add(f"{key}.better", f"expected higher or lower, got {tree['better']!r}")
        digits = tree.get("digits", 2)
        if not isinstance(digits, int) or not 0 <= digits <= 8:
            problems.add(f"{key}.digits", f"expected 0 to 8, got {digits!r}")
            digits = 2
        found.append(Metric(name, str(tree.get("key", "")), better, digits))
    return tuple(found)


def _table(value: Any, axes: Axes, metrics: tuple[Metric, ...], problems: Problems) -> Table:
    tree = problems.mapping("table", value, ("rows", "columns", "metrics", "caption"))
    known: dict[str, tuple[str, ...]] = {}
    names = {"rows": axes, "columns": axes, "metrics": [m.name for m in metrics]}
    for key, there in names.items():
        what = "metric" if key == "metrics" else "axis"
        listed = problems.listed(f"table.{key}", tree.get(key))
        known[key] = tuple(n for n in listed if problems.known(f"table.{key}", n, there, what))
    for axis in known["columns"]:
        if axis in known["rows"]:
            problems.add("table", f"'{axis}' is among rows and columns")
    placed = (*known["rows"], *known["columns"])
    if known["rows"] and (left := [axis for axis in axes if axis not in placed]):
        problems.add("table", f"leaves out axes that vary: {', '.join(left)}")
    return Table(
        rows=known["rows"] or tuple(a for a in axes if a not in known["columns"]),
        columns=known["columns"],
        metrics=known["metrics"] or tuple(m.name for m in metrics),
        caption=problems.text("table.caption", tree.get("caption", "")),
    )


def _budget(value: Any, problems: Problems) -> Budget | None:
    if value is None:
        return None
    tree = problems.mapping("budget", value, ("steps", "flops", "match"))
    given = [key for key in ("steps", "flops") if key in tree]
    if len(given) != 1:
        problems.add(
            "budget", f"expected either steps or flops, got {' and '.join(given) or 'none'}"
        )
    match = tree.get("match")
    if match not in (None, "flops"):
        problems.add("budget.match", f"expected flops, got {match!r}")
    if match and "flops" in tree:
        problems.add("budget.match", "goes with steps; with flops, cells match already")
    steps = tree.get("steps")
    flops = tree.get("flops")
    return Budget(
        None if steps is None else int(problems.number("budget.steps", steps, whole=True) or 0),
        None if flops is None else float(problems.number("budget.flops", flops) or 0),
        bool(match),
    )


def _baseline(
    value: Any, axes: Axes, cells: Sequence[Mapping[str, str]], problems: Problems
) -> Mapping[str, str]:
    """The whole choice of the cell that `baseline` names, or of the first."""
    wanted = read_choice("baseline", value, axes, problems)
    found = [cell for cell in cells if matches(cell, wanted)]
    if cells and not found:
        problems.add("baseline", "no cell has these options")
    return found[0] if found else {}


def _video(value: Any, problems: Problems) -> tuple[int, int, int] | None:
    if value is None:
        return None
    sizes = problems.listed("video", value, of=int)
    if len(sizes) != 3 or min(sizes) < 1:
        problems.add("video", f"expected [frames, height, width], got {value!r}")
        return None
    return sizes[0], sizes[1], sizes[2]


def _published(value: Any, axes: Axes, problems: Problems) -> tuple[Published, ...]:
    found = []
    for i, given in enumerate(problems.listed("published", value, of=Mapping)):
        key = f"published.{i}"
        tree = problems.mapping(key, given, ("source", "note", "rows"))
        if "source" not in tree:
            problems.add(f"{key}.source", "missing; name paper and table")
        rows = problems.listed(f"{key}.rows", tree.get("rows"), of=Mapping)
        found.append(
            Published(
                problems.text(f"{key}.source", tree.get("source", "")),
                problems.text(f"{key}.note", tree.get("note", "")),
                tuple(_row(f"{key}.rows.{n}", row, axes, problems) for n, row in enumerate(rows)),
            )
        )
    return tuple(found)


def _row(key: str, row: Any, axes: Axes, problems: Problems) -> PublishedRow:
    tree = problems.mapping(key, row, ("cell", "values"))
    choice = read_choice(f"{key}.cell", tree.get("cell"), axes, problems)
    values: dict[str, float] = {}
    for name, number in problems.mapping(f"{key}.values", tree.get("values")).items():
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            values[name] = float(number)
        else:
            problems.add(f"{key}.values.{name}", f"expected a number, got {number!r}")
    return PublishedRow({axis: names[0] for axis, names in choice.items() if names}, values)
