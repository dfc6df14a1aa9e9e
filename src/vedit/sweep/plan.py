"""From a grid to the runs it takes, every one of them composed, checked and built beforehand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vedit.errors import ConfigError, VeditError
from vedit.sweep.budget import Costs, costs, steps_of
from vedit.sweep.experiments import Composition, Experiments, Facts, Tree, data_of
from vedit.sweep.metrics import missing_metric
from vedit.sweep.problems import Problems
from vedit.sweep.records import Cell, Grid, Stage

START, LENGTH = "model.init_from", "trainer.max_steps"


@dataclass(frozen=True)
class Run:
    """One training, and the test of what it made.

    Attributes:
        digest: names its content.
        title: in words.
        config: checked, not yet told where its results go.
        after: digest of the run it starts from; None if it starts by itself.
        tested: whether a test follows the training.
        steps: optimizer steps; None if it does not end by steps.
        facts: from building it.
        flops: operations of its training; None if unknown.
    """

    digest: str
    title: str
    config: Tree
    after: str | None
    tested: bool
    steps: int | None
    facts: Facts
    flops: float | None


@dataclass(frozen=True)
class Plan:
    """A checked grid.

    Attributes:
        grid: as read.
        cells: one for each choice and seed, choices first.
        runs: by digest; stages before the runs that start from them.
        trees: composed configuration by cell's name, for showing what differs.
    """

    grid: Grid
    cells: tuple[Cell, ...]
    runs: Mapping[str, Run]
    trees: Mapping[str, Tree] = field(default_factory=dict)

    def chain(self, digest: str) -> list[Run]:
        """A run with the runs before it, first one first."""
        run = self.runs[digest]
        return [*(self.chain(run.after) if run.after else []), run]


@dataclass(frozen=True)
class _Drafted:
    """A choice, composed at the first seed without a budget."""

    name: str
    choice: Mapping[str, str]
    stages: tuple[Stage, ...]
    facts: tuple[Facts, ...]
    costs: tuple[Costs, ...]
    trees: tuple[Tree, ...]
    checked: tuple[Tree, ...]


def make_plan(grid: Grid, experiments: Experiments) -> Plan:
    """Compose, check and build every cell.

    Args:
        grid: as read.
        experiments: composes and checks.

    Returns:
        The plan.

    Raises:
        GridErrors: with every mistake in any cell.
    """
    return _Planner(grid, experiments).plan()


def cell_name(choice: Mapping[str, str]) -> str:
    """A choice in words.

    Args:
        choice: option by axis.

    Returns:
        The name of the cell.

    Examples:
        >>> cell_name({"source": "channels", "finetune": "lora"})
        'source=channels,finetune=lora'
    """
    return ",".join(f"{axis}={name}" for axis, name in choice.items()) or "base"


def digest_of(config: Tree) -> str:
    """Names the content of a checked configuration: not its name, nor where it logs to.

    Args:
        config: checked.

    Returns:
        Twelve hexadecimal digits.

    Examples:
        >>> digest_of({"name": "a", "model": {}}) == digest_of({"name": "b", "model": {}})
        True
    """
    trainer = {k: v for k, v in config.get("trainer", {}).items() if k != "logger"}
    content = {k: v for k, v in config.items() if k != "name"} | {"trainer": trainer}
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def substituted(checked: Any, tree: Any, other: Any) -> Any:
    """What checking `other` gives, if it differs from a checked tree in plain values alone.

    Args:
        checked: the outcome of checking `tree`.
        tree: a composed configuration.
        other: another.

    Returns:
        The checked configuration; None if `other` has other keys, so that it has to be checked.

    Examples:
        >>> substituted({"a": "x.A", "n": 1}, {"a": "A", "n": 1}, {"a": "A", "n": 2})
        {'a': 'x.A', 'n': 2}
        >>> substituted({"n": 1}, {"n": 1}, {"n": 1, "m": 1})
    """
    if tree == other:
        return checked
    if all(isinstance(part, dict) for part in (checked, tree, other)):
        if tree.keys() != other.keys():
            return None
        found = {k: substituted(checked.get(k), tree[k], other[k]) for k in tree}
        alike = all(v is not None or other[k] is None for k, v in found.items())
        return {**checked, **found} if alike else None
    plain = (int, float, type(None))
    number = isinstance(tree, plain) and isinstance(other, plain) and checked == tree
    return other if number else None


class _Planner:
    def __init__(self, grid: Grid, experiments: Experiments) -> None:
        self.grid, self.experiments = grid, experiments
        self.problems = Problems(grid.file)
        self.runs: dict[str, Run] = {}
        self.trees: dict[str, Tree] = {}
        self._of_own: dict[tuple[str, ...], bool] = {}

    def plan(self) -> Plan:
        drafted = [d for d in map(self._draft, self.grid.cells) if d is not None]
        self.problems.stop()
        baseline = next(d for d in drafted if d.choice == self.grid.baseline)
        cells = [
            cell
            for draft in drafted
            for seed in self.grid.seeds
            if (cell := self._cell(draft, baseline, seed)) is not None
        ]
        self.problems.stop()
        return Plan(self.grid, tuple(cells), self.runs, self.trees)

    def _draft(self, choice: Mapping[str, str]) -> _Drafted | None:
        name = cell_name(choice)
        own = next((self._option(*o).stages for o in choice.items() if self._option(*o).stages), ())
        stages = (*own, Stage("last"))
        drafts = []
        for stage in stages:
            try:
                composed = self._composed(choice, stage, self.grid.seeds[0])
                checked = self.experiments.check(composed)
                found = self.experiments.facts(checked, self.grid.video)
            except VeditError as error:
                self._note(name, error)
                return None
            drafts.append((found, costs(checked, found, stage.share), composed.tree, checked))
        self._check_metrics(checked)
        self.trees[name] = composed.tree
        return _Drafted(name, choice, stages, *zip(*drafts, strict=True))

    def _check_metrics(self, checked: Tree) -> None:
        for metric in self.grid.metrics:
            if problem := missing_metric(metric, checked):
                self.problems.add(f"metrics.{metric.name}", problem)

    def _cell(self, draft: _Drafted, baseline: _Drafted, seed: int) -> Cell | None:
        try:
            steps = steps_of(self.grid.budget, draft.costs, baseline.costs)
        except ConfigError as error:
            self.problems.add(f"cell {draft.name}", str(error))
            return None
        before: str | None = None
        for index, stage in enumerate(draft.stages):
            more: list[tuple[str, Any]] = [(START, before)] if before else []
            if self.grid.budget is not None and steps[index] is not None:
                more.append((LENGTH, steps[index]))
            composed = self._composed(draft.choice, stage, seed, more)
            known = draft.checked[index], draft.trees[index]
            checked = substituted(*known, composed.tree) or self.experiments.check(composed)
            last = index == len(draft.stages) - 1
            title = f"{draft.name} seed {seed}" + ("" if last else f" {stage.name}")
            before = self._add(title, checked, before, last, steps[index], draft, index)
        assert before is not None
        overrides = dict(self._overrides(draft.choice))
        return Cell(draft.name, draft.choice, overrides, seed, before)

    def _add(
        self,
        title: str,
        checked: Tree,
        after: str | None,
        last: bool,
        steps: int | None,
        draft: _Drafted,
        index: int,
    ) -> str:
        digest = digest_of(checked)
        price = draft.costs[index].flops
        tested = last and bool(data_of(checked).get("test"))
        tested |= digest in self.runs and self.runs[digest].tested
        flops = None if price is None or steps is None else price * steps
        self.runs[digest] = Run(
            digest, title, checked, after, tested, steps, draft.facts[index], flops
        )
        return digest

    def _composed(
        self,
        choice: Mapping[str, str],
        stage: Stage,
        seed: int,
        more: Sequence[tuple[str, Any]] = (),
    ) -> Composition:
        files = [*self.grid.base]
        if stage.files:  # an experiment of its own, at the same scale
            files += [*stage.files, *self.grid.overlays]
        for option in choice.items():
            files += self._option(*option).files
        overrides = [*self.grid.overrides.items(), *self._overrides(choice)]
        overrides += [*stage.overrides.items(), *more]
        keys = ["seed_everything", "model.seed"]
        if not self._own_data(files, overrides):
            keys.append("data.seed")
        overrides += [(key, seed) for key in keys]
        return self.experiments.compose(files, overrides)

    def _own_data(self, files: Sequence[str], overrides: Sequence[tuple[str, Any]]) -> bool:
        """Whether the data is a class of its own, which may take no seed."""
        about = [pair for pair in overrides if pair[0].partition(".")[0] == "data"]
        key = (*files, *map(repr, about))
        if key not in self._of_own:
            tree = self.experiments.compose(files, about).tree
            self._of_own[key] = "class_path" in (tree.get("data") or {})
        return self._of_own[key]

    def _note(self, name: str, error: VeditError) -> None:
        """A mistake of the base is told once; one of options, with the cell."""
        line = " ".join(str(error).split())
        own = line.removeprefix("command line: ")
        if own != line or not line.startswith(tuple(self.grid.base)):
            self.problems.add(f"cell {name}", own)
        else:
            self.problems.note(line)

    def _option(self, axis: str, name: str) -> Any:
        return self.grid.axes[axis][name]

    def _overrides(self, choice: Mapping[str, str]) -> list[tuple[str, Any]]:
        return [pair for o in choice.items() for pair in self._option(*o).overrides.items()]
