"""The straight path from a clean sample to noise.

    x_sigma = (1 - sigma) clean + sigma noise,    velocity = d x / d sigma = noise - clean

Rectified flow (Liu et al. 2022, eq. 1), with sigma = 1 at the noise as Wan counts. All functions
are pure.
"""

from typing import TypeVar

from torch import Tensor

Number = TypeVar("Number", float, Tensor)


def align(sigma: Tensor, like: Tensor) -> Tensor:
    """Noise levels (B,) shaped to multiply a tensor (B, ...).

    Args:
        sigma: (B,).
        like: (B, ...).

    Returns:
        (B, 1, ..., 1), with as many dimensions as `like`.

    Examples:
        >>> import torch
        >>> align(torch.zeros(2), torch.zeros(2, 3, 4)).shape
        torch.Size([2, 1, 1])
    """
    return sigma.reshape(-1, *[1] * (like.dim() - 1))


def interpolate(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The noisy sample at a noise level.

    Args:
        clean: (B, ...).
        noise: (B, ...).
        sigma: (B,) in [0, 1].

    Returns:
        (B, ...).

    Examples:
        >>> import torch
        >>> clean, noise = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 4.0]])
        >>> interpolate(clean, noise, torch.tensor([0.25]))
        tensor([[0.2500, 2.5000]])
    """
    sigma = align(sigma, clean)
    return (1 - sigma) * clean + sigma * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """What the model learns to predict: the same at every noise level.

    Args:
        clean: (B, ...).
        noise: (B, ...).

    Returns:
        (B, ...), the derivative of `interpolate` by sigma: noise - clean.

    Examples:
        >>> import torch
        >>> velocity(torch.tensor([1.0]), torch.tensor([3.0]))
        tensor([2.])
    """
    return noise - clean


def predict_clean(x_t: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
    """The clean sample that a velocity points to.

    Args:
        x_t: (B, ...) noisy sample.
        v: (B, ...) velocity.
        sigma: (B,) in [0, 1].

    Returns:
        (B, ...).

    Examples:
        >>> import torch
        >>> clean, noise, sigma = torch.tensor([[2.0]]), torch.tensor([[4.0]]), torch.tensor([0.5])
        >>> x_t = interpolate(clean, noise, sigma)
        >>> predict_clean(x_t, velocity(clean, noise), sigma)
        tensor([[2.]])
    """
    return x_t - align(sigma, x_t) * v


def shift(sigma: Number, factor: float) -> Number:
    """Move noise levels towards noise, as large latents need.

    sigma' = factor sigma / (1 + (factor - 1) sigma) (Esser et al. 2024, eq. 23). Keeps 0 and 1.

    Args:
        sigma: in [0, 1].
        factor: above 1 moves towards noise, 1 changes nothing.

    Returns:
        In [0, 1], of the type of `sigma`.

    Examples:
        >>> shift(0.5, 3.0)
        0.75
        >>> shift(1.0, 5.0)
        1.0
    """
    return factor * sigma / (1 + (factor - 1) * sigma)
