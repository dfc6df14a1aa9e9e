"""Parameters that train with a learning rate or weight decay of their own, chosen by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from vedit.errors import ConfigError, nearest

KEY = "model.parameter_groups"
REST = "rest"
"""Name of the group of all that no pattern matches."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters whose names match a pattern, and how they train.

    Attributes:
        pattern: of their full names, such as "model.injections.*" or "*.lora_B.*"; "*" stands for
            anything, dots included.
        lr: learning rate; None is the optimizer's. Schedules scale it as they scale that one.
        weight_decay: None is the optimizer's.
        name: under which the learning rate is logged; None is the pattern without its stars.
    """

    pattern: str
    lr: float | None = None
    weight_decay: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for key in ("lr", "weight_decay"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{KEY}: {self.pattern}: {key} is {value}, expected 0 or more")

    @property
    def title(self) -> str:
        """The name to log under."""
        plain = ".".join(part for part in self.pattern.replace("*", "").split(".") if part)
        return self.name or plain or "all"


def grouped(
    parameters: Mapping[str, Tensor], groups: Sequence[ParameterGroup], frozen: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Groups as optimizers of torch take them.

    A parameter that several patterns match belongs to the first of them.

    Args:
        parameters: what trains, by full name.
        groups: patterns, in order.
        frozen: names of what does not train, to tell a pattern for that from a misspelt one.

    Returns:
        One for each pattern, and one more for the rest if there is any, each with a "name".

    Raises:
        ConfigError: if nothing is left for a pattern, or two groups have one name.
    """
    members: list[list[Tensor]] = [[] for _ in groups]
    rest: list[Tensor] = []
    for name, parameter in parameters.items():
        matching = (i for i, group in enumerate(groups) if fnmatchcase(name, group.pattern))
        first = next(matching, None)
        (rest if first is None else members[first]).append(parameter)
    for group, found in zip(groups, members, strict=True):
        if not found:
            raise ConfigError(f"{KEY}: {_why_empty(group.pattern, parameters, groups, frozen)}")
    titles = [group.title for group in groups]
    if twice := next((title for title in titles if titles.count(title) > 1), None):
        raise ConfigError(f"{KEY}: two groups are called '{twice}'; give one of them a name")
    made = [
        {"params": found, "name": group.title, **_settings(group)}
        for group, found in zip(groups, members, strict=True)
    ]
    return [*made, {"params": rest, "name": REST}] if rest else made


def keep_ratios(optimizer: Optimizer, learning_rates: Sequence[float]) -> None:
    """Undo that a schedule with a peak of its own (OneCycleLR) gives all groups the same.

    Args:
        optimizer: whose schedule has just been made.
        learning_rates: of its groups, as they were before; their ratios to the optimizer's own
            learning rate are kept.
    """
    own = float(optimizer.defaults.get("lr", 0.0))
    for group, rate in zip(optimizer.param_groups, learning_rates, strict=True):
        if "max_lr" in group and own > 0 and rate != own:
            for key in ("lr", "initial_lr", "max_lr", "min_lr"):
                group[key] *= rate / own


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """The current learning rate of each group by its name; "all" if there are no groups."""
    return {str(g.get("name", "all")): float(g["lr"]) for g in optimizer.param_groups}


def _settings(group: ParameterGroup) -> dict[str, float]:
    given = {"lr": group.lr, "weight_decay": group.weight_decay}
    return {name: value for name, value in given.items() if value is not None}


def _why_empty(
    pattern: str,
    parameters: Mapping[str, Tensor],
    groups: Sequence[ParameterGroup],
    frozen: Iterable[str],
) -> str:
    taken = next((name for name in parameters if fnmatchcase(name, pattern)), None)
    if taken is not None:
        by = next(group.pattern for group in groups if fnmatchcase(taken, group.pattern))
        return f"all that '{pattern}' matches belongs to '{by}', which comes first"
    if any(fnmatchcase(name, pattern) for name in frozen):
        return f"'{pattern}' matches only what is frozen, see model.finetune"
    prefixes = {
        f"{name.rsplit('.', depth)[0]}.*"
        for name in parameters
        for depth in range(1, name.count(".") + 1)
    }
    few = ", ".join(sorted(p for p in prefixes if p.count(".") == 2)[:6])
    hint = nearest(pattern, prefixes | parameters.keys()) or f" There are: {few}"
    return f"'{pattern}' matches nothing that trains.{hint}"
