"""Classifier-free guidance (Ho and Salimans 2022)."""

import torch
from torch import Tensor

from vedit.flow.sampler import Velocity


def combine(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Move from the unconditional velocity through the conditional one.

    Args:
        conditional: (B, ...).
        unconditional: (B, ...).
        scale: 1 gives the conditional velocity, more overshoots it.

    Returns:
        (B, ...).

    Examples:
        >>> combine(torch.tensor([2.0]), torch.tensor([1.0]), 3.0)
        tensor([4.])
    """
    return unconditional + scale * (conditional - unconditional)


def guided(velocity_pair: Velocity, scale: float) -> Velocity:
    """A guided velocity from one that answers both branches in one batch.

    Args:
        velocity_pair: takes x_t (2B, ...) and sigma (2B,), whose first half is to be answered under
            the conditions and whose second half without them.
        scale: of the guidance.

    Returns:
        A velocity for x_t (B, ...) and sigma (B,).
    """

    def velocity(x_t: Tensor, sigma: Tensor) -> Tensor:
        both = velocity_pair(torch.cat([x_t, x_t]), torch.cat([sigma, sigma]))
        conditional, unconditional = both.chunk(2)
        return combine(conditional, unconditional, scale)

    return velocity
