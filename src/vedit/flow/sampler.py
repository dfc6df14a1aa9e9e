"""From noise to a sample, along the velocity."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor

from vedit.errors import ConfigError
from vedit.flow.noise_levels import require_positive
from vedit.flow.path import shift as shifted

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), sigma (B,)) to the velocity (B, ...)."""

Progress = Callable[[int, int], None]
"""Told (steps done, steps in all) after each step."""


class Sampler(ABC):
    """A way to solve the flow backwards.

    Args:
        steps: evaluations of the velocity.
        shift: of the noise levels; see `vedit.flow.path.shift`.

    Raises:
        ConfigError: if the steps or the shift are not positive.
    """

    def __init__(self, steps: int = 50, shift: float = 5.0) -> None:
        require_positive("steps", steps)
        require_positive("shift", shift)
        self.steps, self.shift = steps, shift

    def with_steps(self, steps: int) -> Self:
        """The same sampler with another number of steps."""
        changed = copy.copy(self)
        changed.steps = steps
        return changed

    @abstractmethod
    def sample(self, velocity: Velocity, noise: Tensor, progress: Progress | None = None) -> Tensor:
        """Travel from noise to a sample.

        Args:
            velocity: the model, with its conditions bound.
            noise: (B, ...), where to start.
            progress: told after each step.

        Returns:
            (B, ...).
        """


def euler_grid(
    steps: int, factor: float, spacing: Literal["diffusers", "even"] = "diffusers"
) -> Tensor:
    """Noise levels from 1 to 0.

    "even" takes equal steps 1, 1 - 1/steps, ... and shifts them. "diffusers" is the grid of
    `FlowMatchEulerDiscreteScheduler`, whose last level above 0 is 1/1000 shifted twice: it spaces
    its steps evenly from 1 to the *shifted* smallest training level, and then shifts them all.

    Args:
        steps: levels above 0.
        factor: of the shift.
        spacing: "diffusers" or "even".

    Returns:
        (steps + 1,) float32, descending, the last is 0.

    Examples:
        >>> euler_grid(2, 1.0, "even")
        tensor([1.0000, 0.5000, 0.0000])
        >>> euler_grid(3, 3.0)
        tensor([1.0000, 0.7511, 0.0089, 0.0000])
    """
    if spacing == "even":
        levels = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    else:
        levels = torch.linspace(1, shifted(1 / 1000, factor), steps, dtype=torch.float64)
    return torch.cat([shifted(levels, factor), levels.new_zeros(1)]).to(torch.float32)


class Euler(Sampler):
    """Euler's method in sigma: x <- x + (next sigma - sigma) velocity.

    Args:
        steps: evaluations of the velocity.
        shift: of the noise levels.
        spacing: "diffusers" for the grid of diffusers' Euler scheduler, "even" for equal steps
            before the shift (Wan's own code, and Kiwi-Edit's); see `euler_grid`.

    Raises:
        ConfigError: if the spacing is unknown, or the steps or the shift are not positive.
    """

    def __init__(
        self,
        steps: int = 50,
        shift: float = 5.0,
        spacing: Literal["diffusers", "even"] = "diffusers",
    ) -> None:
        super().__init__(steps, shift)
        if spacing not in ("diffusers", "even"):
            raise ConfigError(f"spacing: '{spacing}' is neither 'diffusers' nor 'even'")
        self.spacing: Literal["diffusers", "even"] = spacing

    def sample(self, velocity: Velocity, noise: Tensor, progress: Progress | None = None) -> Tensor:
        """From noise (B, ...) to a sample (B, ...); adds up in at least float32."""
        levels = euler_grid(self.steps, self.shift, self.spacing).to(noise.device)
        x = noise.to(torch.promote_types(noise.dtype, torch.float32))
        for i in range(self.steps):
            v = velocity(x.to(noise.dtype), levels[i].expand(len(noise)))
            x = x + (levels[i + 1] - levels[i]) * v
            if progress is not None:
                progress(i + 1, self.steps)
        return x.to(noise.dtype)


class UniPC(Sampler):
    """UniPC of order 2 (Zhao et al. 2023), Wan's default; the solver is diffusers'.

    It asks for the velocity at whole times (1000 sigma rounded down), as Wan's pipelines do.
    """

    def sample(self, velocity: Velocity, noise: Tensor, progress: Progress | None = None) -> Tensor:
        """From noise (B, ...) to a sample (B, ...)."""
        from diffusers import UniPCMultistepScheduler

        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.shift
        )
        scheduler.set_timesteps(self.steps, device=noise.device)
        x = noise
        for i, time in enumerate(scheduler.timesteps):
            v = velocity(x, (time / 1000).expand(len(noise)))
            x = scheduler.step(v, time, x, return_dict=False)[0]
            if progress is not None:
                progress(i + 1, self.steps)
        return x
