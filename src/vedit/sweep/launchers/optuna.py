"""A search by Optuna over the same axes: which cells are worth running is its choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from vedit.errors import ConfigError, nearest
from vedit.sweep.collect import collect
from vedit.sweep.folder import Recorded, SweepFolder, in_order
from vedit.sweep.launchers.local import Local
from vedit.sweep.records import Grid, Metric, Outcome
from vedit.sweep.worker import PATIENCE

if TYPE_CHECKING:
    from optuna.distributions import CategoricalDistribution
    from optuna.study import Study

REPEATS = 20
"""Suggestions in a row that name no new cell, after which the nearest new one is taken."""


class Optuna(Local):
    """Runs the cells that an Optuna study suggests, as processes of this machine.

    The axes of the grid are its search space, each option a category, and a trial is a cell with
    all its seeds. Cells that the study never suggests stay without a result. There is no store
    beside the sweep's folder: the study begins with every cell that has finished there, so that a
    search that was stopped goes on, and one with more trials takes the earlier ones along.

    Args:
        trials: cells to run, those that have finished included.
        metric: name of the grid's metric that is searched for; null takes the first.
        sampler: class of `optuna.samplers`, made with `seed` alone.
        seed: of the sampler.
        jobs: runs at a time, see `Local`; suggestions come in batches that keep them busy.
        gpus: ids of the GPUs to use, see `Local`.
        patience: seconds a run has to write its checkpoint when it is stopped.
    """

    def __init__(
        self,
        trials: int = 20,
        metric: str | None = None,
        sampler: str = "TPESampler",
        seed: int = 0,
        jobs: int | None = None,
        gpus: list[int] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        super().__init__(jobs, gpus, patience)
        if trials < 1:
            raise ConfigError(f"launcher.trials: expected a number above 0, got {trials}")
        self.trials, self.metric, self.sampler, self.seed = trials, metric, sampler, seed

    def launch(
        self, folder: SweepFolder, runs: Sequence[Recorded], tick: Callable[[], None]
    ) -> None:
        """Run cells until there are enough, or all have been run."""
        grid, cells, every, _ = folder.read()
        metric = _metric(grid, self.metric)
        wanted = {run.digest for run in runs}
        study = self.study(grid, metric)
        tried = set[str]()
        for name, outcomes in _by_cell(folder).items():
            if _tell(study, grid, metric, outcomes):
                tried.add(name)
        allowed = {cell.name: cell.options for cell in cells if cell.digest in wanted}
        while len(tried) < self.trials:
            batch = self._suggest(study, grid, allowed, tried)
            if not batch:
                return
            digests = [cell.digest for cell in cells if cell.name in batch]
            todo = [r for r in in_order(every, digests) if not folder.is_finished(r)]
            super().launch(folder, todo, tick)
            tried |= set(batch)
            found = _by_cell(folder)
            for name in batch:
                _tell(study, grid, metric, found[name])

    def study(self, grid: Grid, metric: Metric) -> Study:
        """An empty study over a grid's axes.

        Args:
            grid: of the sweep.
            metric: that is searched for.

        Returns:
            The study, kept in memory.

        Raises:
            ConfigError: Optuna is not installed or has no such sampler.
        """
        try:
            import optuna
        except ImportError as error:
            raise ConfigError(
                "--launcher optuna: needs optuna: pip install vedit[optuna]"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        made = getattr(optuna.samplers, self.sampler, None)
        if made is None:
            known = [name for name in optuna.samplers.__all__ if name.endswith("Sampler")]
            raise ConfigError(
                f"launcher.sampler: optuna has no '{self.sampler}'.{nearest(self.sampler, known)}"
            )
        direction = "maximize" if metric.better == "higher" else "minimize"
        return optuna.create_study(sampler=made(seed=self.seed), direction=direction)

    def _suggest(
        self,
        study: Study,
        grid: Grid,
        allowed: Mapping[str, Mapping[str, str]],
        tried: set[str],
    ) -> list[str]:
        """Names of the next cells, as many as keep the jobs busy."""
        from optuna.trial import TrialState

        fresh = {name: options for name, options in allowed.items() if name not in tried}
        batch: list[str] = []
        for _ in range(min(self.jobs or 1, self.trials - len(tried), len(fresh))):
            for _ in range(REPEATS):
                trial = study.ask(dict(_space(grid)))
                # What a cell gives is told when it has finished; the suggestion is not kept.
                study.tell(trial, state=TrialState.FAIL)
                named = _nearest(fresh, trial.params, f"{self.seed} {len(fresh)}")
                if _shared(fresh[named], trial.params) == len(fresh[named]):
                    break
            batch.append(named)
            del fresh[named]
        return batch


def _metric(grid: Grid, name: str | None) -> Metric:
    known = {metric.name: metric for metric in grid.metrics}
    if not known:
        raise ConfigError("--launcher optuna: the grid collects no metrics to search for")
    if name is None:
        return grid.metrics[0]
    if name not in known:
        raise ConfigError(
            f"launcher.metric: the grid collects no '{name}'.{nearest(name, known)} "
            f"There are: {', '.join(known)}"
        )
    return known[name]


def _space(grid: Grid) -> dict[str, CategoricalDistribution]:
    from optuna.distributions import CategoricalDistribution

    return {axis: CategoricalDistribution(tuple(options)) for axis, options in grid.axes.items()}


def _shared(options: Mapping[str, str], params: Mapping[str, Any]) -> int:
    """Options that a cell has in common with a suggestion."""
    return sum(params[axis] == name for axis, name in options.items())


def _nearest(cells: Mapping[str, Mapping[str, str]], params: Mapping[str, Any], seed: str) -> str:
    """The cell that a suggestion means; else one of those that differ from it the least."""
    apart = {name: len(o) - _shared(o, params) for name, o in cells.items()}
    least = min(apart.values())
    return Random(seed).choice(sorted(name for name, by in apart.items() if by == least))


def _by_cell(folder: SweepFolder) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in collect(folder.root):
        found.setdefault(outcome.cell.name, []).append(outcome)
    return found


def _tell(study: Study, grid: Grid, metric: Metric, outcomes: Sequence[Outcome]) -> bool:
    """Add a cell to the study, its value the mean over seeds; False if it has none yet."""
    from optuna.trial import create_trial

    values = [o.metrics[metric.name] for o in outcomes if metric.name in o.metrics]
    if len(values) < len(outcomes):
        return False
    options = outcomes[0].cell.options
    space = {axis: of for axis, of in _space(grid).items() if axis in options}
    mean = sum(values) / len(values)
    study.add_trial(create_trial(params=dict(options), distributions=dict(space), value=mean))
    return True
