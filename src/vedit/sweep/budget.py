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
        samples: of one optimizer step; None if a batch goes by tokens and no size is known.
        flops: operations of one optimizer step, the backbone's; None if unknown.
        steps: that the configuration asks for; None if it does not end by steps.
        share: of the budget; None leaves `steps` as they are.
    """

    samples: int | None
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

    Raises:
        ConfigError: a batch goes by tokens, and has not room for one sample.
    """
    trainer = checked["trainer"]
    samples = samples_of_batch(data_of(checked), facts.tokens)
    if samples is not None:
        samples *= int(trainer.get("accumulate_grad_batches") or 1) * data_ranks(trainer)
    steps = trainer.get("max_steps")
    known = samples is not None and facts.step_flops is not None
    flops = (facts.step_flops or 0.0) * (samples or 0) if known else None
    return Costs(samples, flops, steps if isinstance(steps, int) and steps > 0 else None, share)


def samples_of_batch(data: Tree, tokens: int | None) -> int | None:
    """How many samples of one size make a batch on one rank, as `vedit.data.mixture` forms it.

    Args:
        data: arguments of the data.
        tokens: of one sample; None if no size is known.

    Returns:
        As many as are asked for, or as a budget of tokens has room for; None if that is unknown.

    Raises:
        ConfigError: the budget has not room for one.
    """
    budget = data.get("tokens_per_batch")
    if budget is None:
        return int(data.get("batch_size") or 1)
    if tokens is None:
        return None
    if tokens > int(budget):
        raise ConfigError(
            f"data.tokens_per_batch: got {budget}, but a sample makes {tokens} tokens at the size "
            "that operations are counted at; set at least that, or the grid's `video` to what is "
            "trained on"
        )
    return int(budget) // tokens


def data_ranks(trainer: Tree) -> int:
    """How many ranks have samples of their own: those that share a sequence have the same."""
    strategy: Any = trainer.get("strategy")
    arguments = (strategy.get("init_args") or {}) if isinstance(strategy, dict) else {}
    ranks = devices(trainer) * int(trainer.get("num_nodes") or 1)
    return max(1, ranks // int(arguments.get("context") or 1))


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
