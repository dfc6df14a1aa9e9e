"""Which noise levels training visits."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from vedit.errors import ConfigError
from vedit.flow.path import shift as shifted


def require_positive(key: str, value: float) -> None:
    """Refuse what cannot be a size, a step count or a shift.

    Args:
        key: names it in the message.
        value: what was given.

    Raises:
        ConfigError: if the value is not above zero.
    """
    if not value > 0:
        raise ConfigError(f"{key}: must be above 0, got {value}")


class NoiseLevels(ABC):
    """A distribution of noise levels in [0, 1]."""

    @abstractmethod
    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw noise levels.

        Args:
            batch: how many.
            generator: where the randomness comes from; the result lives on its device.

        Returns:
            (B,) float32 in [0, 1].
        """


def _rand(batch: int, generator: torch.Generator) -> Tensor:
    return torch.rand(batch, generator=generator, device=generator.device)


class Uniform(NoiseLevels):
    """Uniform, then shifted.

    Args:
        shift: see `vedit.flow.path.shift`.

    Raises:
        ConfigError: if the shift is not positive.
    """

    def __init__(self, shift: float = 1.0) -> None:
        require_positive("shift", shift)
        self.shift = shift

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw (B,) noise levels."""
        return shifted(_rand(batch, generator), self.shift)


class LogitNormal(NoiseLevels):
    """The logistic of a normal variable, then shifted (Esser et al. 2024, section 3.1).

    Args:
        mean: of the normal variable; above 0 leans towards noise.
        std: of the normal variable; small concentrates on the middle.
        shift: see `vedit.flow.path.shift`.

    Raises:
        ConfigError: if the shift or the standard deviation is not positive.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0, shift: float = 1.0) -> None:
        require_positive("std", std)
        require_positive("shift", shift)
        self.mean, self.std, self.shift = mean, std, shift

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw (B,) noise levels."""
        normal = torch.randn(batch, generator=generator, device=generator.device)
        return shifted(torch.sigmoid(self.mean + self.std * normal), self.shift)


class Mode(NoiseLevels):
    """Heavy in the middle, with tails that reach the ends (Esser et al. 2024, eq. 20).

    Args:
        scale: above 0 favours the middle, below 0 the ends; in [-1, 2 / (pi - 2)].
        shift: see `vedit.flow.path.shift`.

    Raises:
        ConfigError: if the scale leaves its range or the shift is not positive.
    """

    def __init__(self, scale: float = 1.29, shift: float = 1.0) -> None:
        require_positive("shift", shift)
        if not -1 <= scale <= 2 / (math.pi - 2):
            raise ConfigError(f"scale: must be in [-1, 1.75], got {scale}")
        self.scale, self.shift = scale, shift

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw (B,) noise levels."""
        u = _rand(batch, generator)
        sigma = 1 - u - self.scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
        return shifted(sigma.clamp(0, 1), self.shift)


class ShiftedGrid(NoiseLevels):
    """One of equally likely points of a shifted grid, as the Wan trainers of DiffSynth draw.

    Grid: 1, 1 - 1/steps, ..., 1/steps, then shifted. Kiwi-Edit trains with 1000 steps and shift 5
    (median 0.834, mean 0.748).

    Args:
        steps: points of the grid.
        shift: see `vedit.flow.path.shift`.
        round_to_bf16: take the grid point nearest to the drawn time after that has been rounded to
            bfloat16, as those trainers do; 1000 steps then collapse to 294 levels.

    Raises:
        ConfigError: if the steps or the shift are not positive.
    """

    def __init__(self, steps: int = 1000, shift: float = 5.0, round_to_bf16: bool = False) -> None:
        require_positive("steps", steps)
        require_positive("shift", shift)
        self.levels = shifted_grid(steps, shift)
        if round_to_bf16:
            times = 1000 * self.levels
            rounded = times.to(torch.bfloat16).to(torch.float32)
            self.levels = self.levels[(times - rounded[:, None]).abs().argmin(dim=1)]

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw (B,) noise levels."""
        device = generator.device
        index = torch.randint(len(self.levels), (batch,), generator=generator, device=device)
        return self.levels.to(device)[index]


def shifted_grid(steps: int, factor: float) -> Tensor:
    """Noise levels 1 .. 1/steps in equal steps, then shifted.

    Args:
        steps: how many.
        factor: of the shift.

    Returns:
        (steps,) float32, descending from 1.

    Examples:
        >>> shifted_grid(4, 1.0)
        tensor([1.0000, 0.7500, 0.5000, 0.2500])
    """
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    return shifted(even, factor).to(torch.float32)
