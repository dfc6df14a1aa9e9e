"""How many steps a cell trains: given, or worked out so that cells match in compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vedit.errors import ConfigError
from vedit.sweep.experiments import Facts, Tree, data_of
from vedit.sweep.records import Budget


@dataclass(frozen=True)
class Costs:
    """What a training costs.

    Attributes:
        samples: of one optimizer step.
        flops: operations of one optimizer step, the backbone's; None if unknown.
        steps: that the configuration asks for; None if it does not end by steps.
        share: of the budget; None leaves `steps` as they are.
    """

    samples: int
    flops: float | None
    steps: int | None
    share: float | None = None


def costs(checked: Tree, facts: Facts, share: float | None = None) -> Costs:
    """The costs of a configuration.

    Args:
        checked: the configuration.
        facts: from building it.
        share: of the budget.

    Returns:
        Its costs; an unknown number of devices counts as one.
    """
    trainer, data = checked["trainer"], data_of(checked)
    samples = int(data.get("batch_size") or 1) * int(trainer.get("accumulate_grad_batches") or 1)
    samples *= devices(trainer) * int(trainer.get("num_nodes") or 1)
    steps = trainer.get("max_steps")
    flops = None if facts.step_flops is None else facts.step_flops * samples
    return Costs(samples, flops, steps if isinstance(steps, int) and steps > 0 else None, share)


def devices(trainer: Tree) -> int:
    """How many devices of a node a trainer takes."""
    given: Any = trainer.get("devices", 1)
    if isinstance(given, str) and given.isdigit():
        given = int(given)
    if isinstance(given, int):
        return max(given, 1)
    return len(given) if isinstance(given, list) and given else 1


def steps_of(
    budget: Budget | None, stages: Sequence[Costs], baseline: Sequence[Costs]
) -> list[int | None]:
    """The steps of each stage of a cell, its own training last.

    The last stage gets what the others leave of the budget.

    Args:
        budget: of the grid.
        stages: of the cell.
        baseline: the stages of the cell that the others are matched with.

    Returns:
        Steps by stage; None where nothing says how many.

    Raises:
        ConfigError: nothing is left for the last stage, or operations are needed but unknown.
    """
    if budget is None:
        return [stage.steps for stage in stages]
    if budget.steps is not None and not budget.match:
        return _shared(budget.steps, stages, [1.0] * len(stages))
    flops = [stage.flops or 0.0 for stage in stages]
    if not all(flops):
        raise ConfigError("budget: matching needs a size to count operations at: give `video`")
    total = budget.flops
    if budget.steps is not None:
        given = _shared(budget.steps, baseline, [1.0] * len(baseline))
        total = sum((s or 0) * (b.flops or 0.0) for s, b in zip(given, baseline, strict=True))
    return _shared(float(total or 0.0), stages, flops)


def _shared(total: float, stages: Sequence[Costs], prices: Sequence[float]) -> list[int | None]:
    """Steps by stage, when a step of each has a price."""
    *earlier, _ = stages
    found: list[int | None] = []
    left = total
    for stage, price in zip(earlier, prices, strict=False):
        steps = stage.steps if stage.share is None else max(1, round(total * stage.share / price))
        if steps is None:
            raise ConfigError("budget: a stage before the last has neither `share` nor max_steps")
        found.append(steps)
        left -= steps * price
    last = round(left / prices[-1])
    if last < 1:
        raise ConfigError(f"budget: its stages leave no step of {total:.4g} for the last one")
    return [*found, last]
