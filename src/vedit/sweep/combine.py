"""Which combinations of options a grid runs: products, zipped axes, listed rows, conditions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations, product
from typing import Any

from vedit.sweep.options import keys_written
from vedit.sweep.problems import Problems
from vedit.sweep.records import Option

Choice = dict[str, str]
Axes = Mapping[str, Mapping[str, Option]]

KEYS = ("product", "zip", "rows", "exclude", "when")


def read_cells(tree: Mapping[str, Any], axes: Axes, problems: Problems) -> tuple[Choice, ...]:
    """The cells of a grid, in order.

    Axes named under `zip` go through their options together; `rows` lists the combinations of the
    axes that it names; all other axes vary freely. Then `when` takes an axis out of the cells where
    it does not apply, and `exclude` drops cells.

    Args:
        tree: the grid.
        axes: its options.
        problems: where mistakes go.

    Returns:
        Option by axis of every cell.
    """
    factors = [*_zipped(tree.get("zip"), axes, problems), *_rows(tree.get("rows"), axes, problems)]
    used = [axis for factor in factors for axis in dict.fromkeys(a for c in factor for a in c)]
    for axis in {axis for axis in used if used.count(axis) > 1}:
        problems.add("zip, rows", f"axis '{axis}' is in two places; choose one")
    free = [axis for axis in axes if axis not in used]
    if "product" in tree:
        free = _free(tree["product"], free, axes, problems)
    factors += [[{axis: name} for name in axes[axis]] for axis in free]
    order = list(axes)
    factors.sort(key=lambda factor: min((order.index(a) for c in factor for a in c), default=0))
    every = [_ordered(order, parts) for parts in product(*factors)]
    kept = _unique(_applying(every, tree.get("when"), axes, problems))
    left = _without(kept, tree.get("exclude"), axes, problems)
    if not left and not problems.found:
        reason = f"`exclude` drops all {len(kept)}" if kept else "an axis or a list has no options"
        problems.add("", f"the grid has no cells: {reason}")
    return tuple(left)


def clashes(axes: Axes, cells: Iterable[Mapping[str, str]], problems: Problems) -> None:
    """Note every pair of axes that write the same key in some cell."""
    seen: set[tuple[str, str, str, str]] = set()
    for cell in cells:
        for one, other in combinations(cell, 2):
            if (pair := (one, cell[one], other, cell[other])) in seen:
                continue
            seen.add(pair)
            _clash(axes, pair, problems)


def _clash(axes: Axes, pair: tuple[str, str, str, str], problems: Problems) -> None:
    one, first, other, second = pair
    options = axes[one][first], axes[other][second]
    if all(option.stages for option in options):
        problems.add("axes", f"'{one}' and '{other}' both have stages; make them one axis")
    left, right = (keys_written(option.overrides) for option in options)
    for mine in left:
        for theirs in right:
            if f"{mine}.".startswith(f"{theirs}.") or f"{theirs}.".startswith(f"{mine}."):
                problems.add(
                    "axes",
                    f"'{one}' ({first}) and '{other}' ({second}) both write "
                    f"{min(mine, theirs, key=len)}; make them one axis",
                )


def matches(cell: Mapping[str, str], wanted: Mapping[str, str | tuple[str, ...]]) -> bool:
    """Whether a cell has all wanted options; several for an axis are alternatives."""
    return all(
        axis in cell and (cell[axis] in name if isinstance(name, tuple) else cell[axis] == name)
        for axis, name in wanted.items()
    )


def read_choice(key: str, value: Any, axes: Axes, problems: Problems) -> dict[str, tuple[str, ...]]:
    """One or several options by axis; names that are not there are noted and dropped."""
    found: dict[str, tuple[str, ...]] = {}
    for axis, names in problems.mapping(key, value).items():
        if problems.known(key, axis, axes, "axis"):
            listed = [_name(n) for n in (names if isinstance(names, list) else [names])]
            known = [n for n in listed if problems.known(f"{key}.{axis}", n, axes[axis], "option")]
            found[axis] = tuple(known)
    return found


def _name(value: Any) -> str:
    """An option's name as its key reads: YAML may have made a number of it."""
    return str(value)


def _zipped(value: Any, axes: Axes, problems: Problems) -> list[list[Choice]]:
    groups = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    factors = []
    for group in groups:
        names = problems.listed("zip", group)
        known = [name for name in names if problems.known("zip", name, axes, "axis")]
        counts = {name: len(axes[name]) for name in known}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{name} has {count}" for name, count in counts.items())
            problems.add("zip", f"axes go together option by option, but {said}")
        elif known:
            columns = [list(axes[name]) for name in known]
            factors.append(
                [dict(zip(known, row, strict=True)) for row in zip(*columns, strict=True)]
            )
    return factors


def _rows(value: Any, axes: Axes, problems: Problems) -> list[list[Choice]]:
    rows = []
    for i, row in enumerate(problems.listed("rows", value, of=Mapping)):
        choice = read_choice(f"rows.{i}", row, axes, problems)
        rows += [dict(zip(choice, names, strict=True)) for names in product(*choice.values())]
    return [rows] if rows else []


def _free(value: Any, free: list[str], axes: Axes, problems: Problems) -> list[str]:
    named = [
        n for n in problems.listed("product", value) if problems.known("product", n, axes, "axis")
    ]
    for axis in free:
        if axis not in named:
            problems.add(f"axes.{axis}", "is in none of product, zip and rows")
    return [axis for axis in named if axis in free]


def _ordered(order: list[str], parts: Iterable[Choice]) -> Choice:
    joined = {axis: name for part in parts for axis, name in part.items()}
    return {axis: joined[axis] for axis in order if axis in joined}


def _applying(cells: list[Choice], value: Any, axes: Axes, problems: Problems) -> list[Choice]:
    conditions = {
        axis: read_choice(f"when.{axis}", wanted, axes, problems)
        for axis, wanted in problems.mapping("when", value).items()
        if problems.known("when", axis, axes, "axis")
    }
    return [
        {a: n for a, n in cell.items() if a not in conditions or matches(cell, conditions[a])}
        for cell in cells
    ]


def _without(cells: list[Choice], value: Any, axes: Axes, problems: Problems) -> list[Choice]:
    dropped = [
        read_choice(f"exclude.{i}", wanted, axes, problems)
        for i, wanted in enumerate(problems.listed("exclude", value, of=Mapping))
    ]
    return [cell for cell in cells if not any(d and matches(cell, d) for d in dropped)]


def _unique(cells: list[Choice]) -> list[Choice]:
    return [cell for i, cell in enumerate(cells) if cell not in cells[:i]]
