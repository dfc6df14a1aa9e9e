"""A moving average of the weights that train: kept beside them, stored with them, evaluated with.

    average <- decay * average + (1 - decay) * weights,    after an optimizer step

(Polyak and Juditsky 1992; with an exponential decay as in Karras et al. 2018.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from vedit.errors import ConfigError

AVERAGE = "average"
"""The attribute of a module, and so the prefix of the average's keys in a checkpoint."""


@dataclass(frozen=True)
class Averaging:
    """How an average of the weights is kept.

    Attributes:
        decay: share of the old average that stays at each update.
        warm_up: begin with a shorter memory: the n-th update takes min(decay, (1 + n) / (10 + n)).
        every_n_steps: optimizer steps between two updates.
        start_step: until then the average is the weights themselves.
        device: where it lives; "cpu" spares the memory of a GPU, which then waits for each update.
        evaluate: validate, sample and test with the average instead of the weights.
    """

    decay: float = 0.9999
    warm_up: bool = True
    every_n_steps: int = 1
    start_step: int = 0
    device: Literal["same", "cpu"] = "same"
    evaluate: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ConfigError(f"model.averaging.decay: must be in [0, 1), got {self.decay}")
        if self.every_n_steps < 1:
            raise ConfigError(
                f"model.averaging.every_n_steps: must be at least 1, got {self.every_n_steps}"
            )

    def decay_at(self, step: int) -> float | None:
        """The decay of the update after an optimizer step.

        Args:
            step: optimizer steps done.

        Returns:
            In [0, 1), 0 copies the weights; None if there is no update after that step.
        """
        updates, rest = divmod(step - self.start_step, self.every_n_steps)
        if updates <= 0:
            return 0.0
        if rest:
            return None
        return min(self.decay, (1 + updates) / (10 + updates)) if self.warm_up else self.decay


class AveragedWeights(nn.Module):
    """The average of some parameters, under the names that they have.

    Parameters in pieces on several ranks have averages in the same pieces, and nothing is gathered.

    Args:
        weights: to start from, by name.
        device: None is where each of them is.
    """

    def __init__(self, weights: Mapping[str, Tensor], device: torch.device | None = None) -> None:
        super().__init__()
        self._own_device = device
        self._by_name: dict[str, nn.Parameter] = {}
        for name, weight in weights.items():
            wide = torch.promote_types(weight.dtype, torch.float32)  # small changes add up
            value = weight.detach().to(device=device, dtype=wide, copy=True)
            self._by_name[name] = nn.Parameter(value, requires_grad=False)
            _register(self, name, self._by_name[name])

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move with the module around it, unless it has a device of its own."""
        if self._own_device is not None:
            return self
        moved = super()._apply(fn, recurse)
        self._by_name = {name: self.get_parameter(name) for name in self._by_name}
        return moved

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], decay: float) -> None:
        """Move towards the weights.

        Args:
            weights: by the same names.
            decay: share of the old average that stays.
        """
        averages = [_local(average) for average in self._by_name.values()]
        current = [_local(weights[name]) for name in self._by_name]
        pairs = zip(averages, current, strict=True)
        current = [weight.to(average.device, average.dtype) for average, weight in pairs]
        torch._foreach_lerp_(averages, current, 1.0 - decay)

    @torch.no_grad()
    def copy_into(self, weights: Mapping[str, Tensor]) -> None:
        """Put the average in the place of the weights."""
        for name, average in self._by_name.items():
            _local(weights[name]).copy_(_local(average))


class Averaged(LightningModule):
    """A module that may keep an average of its weights, and evaluates with it.

    Attributes:
        averaging: how; None keeps none.
        average: once it has been started.
    """

    def __init__(self) -> None:
        super().__init__()
        self.averaging: Averaging | None = None
        self.average: AveragedWeights | None = None
        self._set_aside: dict[str, Tensor] | None = None

    def start_average(self) -> None:
        """Begin an average, once the weights are loaded, adapted and lie where they belong."""
        if self.averaging is None or self.average is not None:
            return
        device = torch.device("cpu") if self.averaging.device == "cpu" else None
        weights = self._weights()
        on_meta = any(weight.is_meta for weight in weights.values())
        self.average = AveragedWeights(weights, None if on_meta else device)
        # Whoever stores the state gets what trains, also in the middle of a validation.
        self.register_state_dict_pre_hook(lambda *_: self._leave())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then average."""
        super().optimizer_step(*args, **kwargs)
        if self.average is None or self.averaging is None:
            return
        decay = self.averaging.decay_at(self.global_step + 1)
        if decay is not None:
            self.average.update(self._weights(), decay)

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """The average in the place of the weights, if it is what is evaluated.

        Yields:
            Nothing; afterwards the weights are back, bit by bit.
        """
        entered = self._enter()
        try:
            yield
        finally:
            if entered:
                self._leave()

    def settle(self, averaged: bool) -> None:
        """End training: keep the average as the weights, or the weights alone.

        Args:
            averaged: which of the two.
        """
        if averaged and self.average is not None:
            self.average.copy_into(self._weights())
        self.average = self.averaging = None

    def on_validation_epoch_start(self) -> None:
        """Validate with the average."""
        self._enter()

    def on_validation_epoch_end(self) -> None:
        """Go on with the weights, before anybody stores them."""
        self._leave()

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    def _enter(self) -> bool:
        evaluates = self.averaging is not None and self.averaging.evaluate
        if self.average is None or not evaluates or self._set_aside is not None:
            return False
        weights = self._weights()
        self._set_aside = {
            name: _local(weight).detach().clone() for name, weight in weights.items()
        }
        self.average.copy_into(weights)
        return True

    @torch.no_grad()
    def _leave(self) -> None:
        if self.average is None or self._set_aside is None:
            return
        weights = self._weights()
        for name, kept in self._set_aside.items():
            _local(weights[name]).copy_(kept)
        self._set_aside = None

    def _weights(self) -> dict[str, Tensor]:
        """What is averaged, by name: all that trains."""
        for module in self.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # pieces, also where a forward pass left the whole
        if self.average is not None:
            return {name: self.get_parameter(name) for name in self.average._by_name}
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def _register(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Register a parameter under a dotted name."""
    *owners, last = name.split(".")
    for owner in owners:
        if not hasattr(module, owner):
            module.add_module(owner, nn.Module())
        module = module.get_submodule(owner)
    module.register_parameter(last, parameter)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
