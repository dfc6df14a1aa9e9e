"""How much each noise level counts in the loss."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from vedit.flow.noise_levels import require_positive, shifted_grid


class Weighting(ABC):
    """A weight per noise level."""

    @abstractmethod
    def __call__(self, sigma: Tensor) -> Tensor:
        """Noise levels (B,) to weights (B,)."""


class NoWeighting(Weighting):
    """Every noise level counts the same."""

    def __call__(self, sigma: Tensor) -> Tensor:
        """Noise levels (B,) to ones (B,)."""
        return torch.ones_like(sigma)


class Bell(Weighting):
    """A bell over the noise levels, as the Wan trainers of DiffSynth and Kiwi-Edit weight.

    exp(-2 (sigma - 1/2)^2), less its smallest value on the grid, divided by its mean on the grid.
    On the default grid the weight is 0 at pure noise and 2.08 in the middle.

    Args:
        steps: points of the training grid (`ShiftedGrid`).
        shift: of the training grid.

    Raises:
        ConfigError: if the steps or the shift are not positive.
    """

    def __init__(self, steps: int = 1000, shift: float = 5.0) -> None:
        require_positive("steps", steps)
        require_positive("shift", shift)
        on_grid = _bell(shifted_grid(steps, shift).double())
        self.floor = float(on_grid.min())
        self.mean = float((on_grid - self.floor).mean())

    def __call__(self, sigma: Tensor) -> Tensor:
        """Noise levels (B,) to weights (B,), never negative."""
        return ((_bell(sigma) - self.floor) / self.mean).clamp(min=0)


def _bell(sigma: Tensor) -> Tensor:
    return torch.exp(-2 * (sigma - 0.5) ** 2)
