"""Clean latents with noise, and the error of a velocity predicted from them."""

from dataclasses import dataclass

from torch import Tensor

from vedit.batch import Conditions
from vedit.flow.path import interpolate, velocity


@dataclass(frozen=True)
class Noised:
    """What a training step asks the model about.

    Attributes:
        clean: (B, C, t, h, w) latents.
        noise: (B, C, t, h, w).
        sigma: (B,) noise level in [0, 1].
        conditions: what the model is told.
    """

    clean: Tensor
    noise: Tensor
    sigma: Tensor
    conditions: Conditions

    @property
    def x_t(self) -> Tensor:
        """(B, C, t, h, w) noisy latents."""
        return interpolate(self.clean, self.noise, self.sigma)

    def error(self, predicted: Tensor) -> Tensor:
        """Mean squared error (B,) of a velocity (B, C, t, h, w)."""
        true = velocity(self.clean, self.noise)
        return (predicted.float() - true).square().mean(dim=(1, 2, 3, 4))
