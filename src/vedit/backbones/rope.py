"""Rotary position embedding over (time, row, column) indices that are data.

Angles come from integer positions, so a segment may lie anywhere in time, before zero included;
attention depends on differences of positions alone.
"""

import torch
from torch import Tensor


def axis_widths(head_width: int) -> tuple[int, int, int]:
    """Channels of a head given to time, rows and columns, as Wan divides them.

    Args:
        head_width: channels of a head.

    Returns:
        Channels for time, rows and columns, which sum to `head_width`.

    Examples:
        >>> axis_widths(128)
        (44, 42, 42)
        >>> axis_widths(32)
        (12, 10, 10)
    """
    space = 2 * (head_width // 6)
    return head_width - 2 * space, space, space


def rotation(positions: Tensor, head_width: int, theta: float = 10000.0) -> Tensor:
    """The rotation of every pair of channels at every position, computed in float64.

    Args:
        positions: (N, 3) int, (time, row, column).
        head_width: width of an attention head, even.
        theta: base of the frequencies.

    Returns:
        (N, head_width / 2, 2) float64, cosine and sine of the angles.
    """
    # Not every device has float64 (Apple's has none); the table is small enough for the CPU.
    exact = positions.cpu() if positions.device.type == "mps" else positions
    angles = []
    for axis, width in enumerate(axis_widths(head_width)):
        steps = torch.arange(0, width, 2, dtype=torch.float64, device=exact.device)
        angles.append(exact[:, axis, None] * theta ** (-steps / width))
    angle = torch.cat(angles, dim=1)
    return torch.view_as_real(torch.polar(torch.ones_like(angle), angle))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate pairs of channels.

    Args:
        x: (B, N, heads, head width); channels 2i and 2i+1 make a pair.
        table: (N, head width / 2, 2), from `rotation`, in the precision to compute with.

    Returns:
        (B, N, heads, head width) in the dtype of `x`.
    """
    if torch.compiler.is_compiling():  # the compiler does not fuse complex numbers
        return plain_rotate(x, table)
    pairs = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))
    # One complex product is one pass over memory, where the real formula is seven strided ones.
    turned = torch.view_as_complex(pairs) * torch.view_as_complex(table)[:, None]
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def plain_rotate(x: Tensor, table: Tensor) -> Tensor:
    """`rotate` in real numbers."""
    cos, sin = table[:, None].unbind(-1)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    out = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return out.flatten(-2).to(x.dtype)
