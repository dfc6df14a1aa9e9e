"""Cells as a table: what a sweep will do, and where it stands."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from vedit.sweep.experiments import Tree
from vedit.sweep.plan import Plan
from vedit.sweep.records import Outcome

MARKS = {"finished": "done", "failed": "failed", "running": "running", "waiting": "waiting",
         "cancelled": "cancelled"}  # fmt: skip


def planned(plan: Plan, done: set[str], seconds: Callable[[float], float | None]) -> str:
    """What a sweep will do.

    Args:
        plan: checked.
        done: digests of the runs that have finished.
        seconds: the time that so many operations take, as far as is known.

    Returns:
        The cells with what sets them apart, parameters, tokens, operations and time.
    """
    rows = []
    for cell in plan.cells:
        chain = plan.chain(cell.digest)
        flops = [run.flops for run in chain]
        total = None if None in flops else sum(f for f in flops if f is not None)
        rows.append(
            (
                f"{cell.name} seed {cell.seed}",
                cell.digest,
                " + ".join("?" if run.steps is None else str(run.steps) for run in chain),
                scaled(chain[-1].facts.parameters),
                "?" if chain[-1].facts.tokens is None else f"{chain[-1].facts.tokens:,}",
                "?" if total is None else scaled(total),
                "-" if cell.digest in done else clock(None if total is None else seconds(total)),
                "done" if cell.digest in done else "",
            )
        )
    head = ("cell", "run", "steps", "trainable", "tokens", "FLOP", "time", "")
    return "\n".join(
        [*_differing(plan), "", *columns(head, rows), "", _summary(plan, done, seconds)]
    )


def _differing(plan: Plan) -> list[str]:
    """How each choice differs from the baseline's resolved configuration."""
    names = list(dict.fromkeys(cell.name for cell in plan.cells))
    chosen = {cell.name: cell.options for cell in plan.cells}
    base = next(name for name in names if chosen[name] == plan.grid.baseline)
    lines = [f"{base}  (baseline)"]
    for name in names:
        if name != base:
            lines.append(name)
            lines += [f"    {line}" for line in differences(plan.trees[base], plan.trees[name])]
            lines += [f"    {line}" for line in _stages(plan, chosen[name])]
    return lines


def _stages(plan: Plan, options: Mapping[str, str]) -> list[str]:
    chosen = [plan.grid.axes[axis][name] for axis, name in options.items()]
    names = [stage.name for option in chosen for stage in option.stages]
    return [f"after the stages {', '.join(names)}"] if names else []


def differences(base: Tree, other: Tree) -> list[str]:
    """What differs between two configurations, a line for each key.

    Args:
        base: a configuration.
        other: another.

    Returns:
        Lines of the form `key: value there -> value here`.

    Examples:
        >>> differences({"a": {"x": 1, "y": 2}}, {"a": {"x": 3, "y": 2}, "b": [1]})
        ['a.x: 1 -> 3', 'b: none -> [1]']
    """
    one, two = _flat(base), _flat(other)
    keys = [*two, *(key for key in one if key not in two)]
    return [
        f"{key}: {_shown(one, key)} -> {_shown(two, key)}"
        for key in keys
        if one.get(key, _NONE) != two.get(key, _NONE)
    ]


_NONE = object()


def _shown(flat: Mapping[str, object], key: str) -> str:
    if key not in flat:
        return "none"
    value = flat[key]
    return "null" if value is None else str(value)


def _flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}".replace(".init_args", "").removesuffix(".class_path")
        if isinstance(value, Mapping):
            found |= _flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def _summary(plan: Plan, done: set[str], seconds: Callable[[float], float | None]) -> str:
    left = [run for run in plan.runs.values() if run.digest not in done]
    flops = [run.flops for run in left]
    total = None if None in flops else sum(f for f in flops if f is not None)
    time_left = None if total is None else seconds(total)
    told = "" if total is None else f", {scaled(total)}FLOP"
    about = "" if time_left is None else f", about {clock(time_left)} one after the other"
    cells = len({cell.name for cell in plan.cells})
    seeds = len(plan.grid.seeds)
    return (
        f"{cells} cells x {seeds} seed{'s' * (seeds != 1)}: {len(plan.runs)} runs, "
        f"{len(plan.runs) - len(left)} done, {len(left)} to do{told}{about}"
    )


def standing(outcomes: Sequence[Outcome]) -> list[str]:
    """Where the cells stand, a line each, and a line about all of them."""
    rows = [
        (f"{o.cell.name} seed {o.cell.seed}", o.cell.digest, MARKS[o.state], o.note)
        for o in outcomes
    ]
    counts = Counter(o.state for o in outcomes)
    said = ", ".join(f"{count} {MARKS[state]}" for state, count in counts.items())
    return [*columns(("cell", "run", "state", ""), rows), f"{len(outcomes)} runs: {said}"]


class Live:
    """Shows where the cells stand: redrawn on a terminal, elsewhere a line for every change.

    Args:
        read: gives the outcomes.
        stream: where to.
        every: seconds between two looks.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[Outcome]],
        stream: TextIO | None = None,
        every: float = 1.0,
    ) -> None:
        self.read, self.stream = read, stream or sys.stderr
        self.every = every
        self._drawn = 0
        self._looked = 0.0
        self._told: dict[str, tuple[str, float]] = {}

    def tick(self, now: bool = False) -> None:
        """Look, if it is time to."""
        if not now and time.monotonic() - self._looked < self.every:
            return
        self._looked = time.monotonic()
        outcomes = self.read()
        if self.stream.isatty():
            self._draw(standing(outcomes))
        else:
            self._tell(outcomes)

    def _draw(self, lines: list[str]) -> None:
        width, height = shutil.get_terminal_size()
        if len(lines) > height - 1:
            lines = lines[-(height - 1) :]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        text = "".join(f"\x1b[2K{line[: width - 1]}\n" for line in lines)
        self.stream.write(up + text)
        self.stream.flush()
        self._drawn = len(lines)

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            name = f"{outcome.cell.name} seed {outcome.cell.seed}"
            state, told = self._told.get(name, ("waiting", 0.0))
            due = outcome.state == "running" and time.monotonic() - told > 30
            if state != outcome.state or due:
                self._told[name] = (outcome.state, time.monotonic())
                note = f": {outcome.note}" if outcome.note else ""
                print(f"{name}: {MARKS[outcome.state]}{note}", file=self.stream, flush=True)


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines; columns that are empty throughout are left out."""
    shown = [i for i in range(len(head)) if any(row[i] for row in rows)]
    table = [[row[i] for i in shown] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(shown))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def scaled(value: float) -> str:
    """A count with a letter for its size.

    Args:
        value: above zero.

    Returns:
        Three digits and the letter.

    Examples:
        >>> scaled(1_234_567), scaled(950)
        ('1.23 M', '950')
    """
    for factor, letter in (
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if value >= factor:
            return f"{value / factor:.3g} {letter}"
    return f"{value:.3g}"


def clock(seconds: float | None) -> str:
    """Seconds as h:mm:ss, or ? if unknown."""
    if seconds is None:
        return "?"
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def speed_of(outcomes: Sequence[Outcome]) -> Callable[[float], float | None]:
    """The time that operations take, going by the cells that have finished.

    Args:
        outcomes: of all cells.

    Returns:
        From operations to seconds; None where nothing has finished.
    """
    known = [(o.flops, o.seconds) for o in outcomes if o.state == "finished" and o.flops]
    flops, seconds = sum(f for f, _ in known if f), sum(s for _, s in known)
    return lambda wanted: wanted * seconds / flops if flops else None
