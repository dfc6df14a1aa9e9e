"""Rotary positions (time, row, column) of the tokens that a Qwen-VL language model reads.

Source: Qwen2.5-VL (arXiv 2502.13923, section 2.1.3), multimodal rotary position embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vedit.errors import DataError
from vedit.tokens import Grid, grid_positions


def rope_positions(
    visual: Sequence[bool], grids: Sequence[Grid], merge: int = 2, time_step: float = 1.0
) -> Tensor:
    """Positions of one sequence.

    A text token stands one after everything before it, on all three axes. A video's or an image's
    tokens stand on a grid that begins there, and what follows begins past the largest index of any
    axis, time included. That is how the published Qwen2.5-VL and what was trained on it count;
    transformers 5 passes over rows and columns only, which differs for long and for small videos.

    Args:
        visual: for each token, whether it stands for a part of a picture.
        grids: of the videos and images in order, in patches (groups, rows, columns).
        merge: side, in patches, of the square that one token stands for.
        time_step: positions from one group of frames to the next; fractions are cut off.

    Returns:
        (L, 3) int64.

    Raises:
        DataError: if the pictures have more or fewer tokens than the sequence has room for.

    Examples:
        >>> rope_positions([False, True, True, False], [(2, 2, 2)], time_step=4).tolist()
        [[0, 0, 0], [1, 1, 1], [5, 1, 1], [6, 6, 6]]
    """
    parts: list[Tensor] = []
    at = following = 0  # index of the next token, and its position
    for grid in grids:
        merged = (grid[0], grid[1] // merge, grid[2] // merge)
        start = next((i for i in range(at, len(visual)) if visual[i]), len(visual))
        parts.append(_text(start - at, following))
        following += start - at
        places = grid_positions(merged)
        places = torch.stack([(places[:, 0] * time_step).long(), *places[:, 1:].unbind(1)], dim=1)
        parts.append(places + following)
        at = start + len(places)
        if at > len(visual) or not all(visual[start:at]):
            raise DataError(f"the prompt has no room for the {len(places)} tokens of grid {merged}")
        following = int(parts[-1].max()) + 1
    if any(visual[at:]):
        raise DataError(f"the prompt has more picture tokens than its {len(grids)} pictures")
    return torch.cat([*parts, _text(len(visual) - at, following)])


def grids_in_order(
    tokens: Sequence[int], grids: Mapping[int, Sequence[Grid]], merge: int = 2
) -> list[Grid]:
    """Grids that are listed kind by kind, in the order in which a prompt shows them.

    Args:
        tokens: of the prompt.
        grids: for each token id that stands for pictures, their grids in order.
        merge: side, in patches, of the square that one token stands for.

    Returns:
        All grids.

    Raises:
        DataError: if the prompt shows more pictures than there are, or fewer.
    """
    waiting = {kind: list(rest) for kind, rest in grids.items()}
    ordered, at = [], 0
    while at < len(tokens):
        if tokens[at] not in waiting:
            at += 1
            continue
        if not waiting[tokens[at]]:
            raise DataError(f"the prompt shows more pictures by token {tokens[at]} than there are")
        ordered.append(waiting[tokens[at]].pop(0))
        at += ordered[-1][0] * (ordered[-1][1] // merge) * (ordered[-1][2] // merge)
    if left := sum(map(len, waiting.values())):
        raise DataError(f"{left} pictures have no place in the prompt")
    return ordered


def as_grids(grids: Tensor) -> list[Grid]:
    """Rows of (n, 3) as grids."""
    return [(t, h, w) for t, h, w in grids.tolist()]


def packed(
    rows: Sequence[Sequence[int]], positions: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences of different lengths side by side, zeros behind the shorter ones.

    Args:
        rows: token ids of B sequences.
        positions: (L, 3) of each.

    Returns:
        Ids (B, L), positions (B, L, 3) and lengths (B,).
    """
    pad = torch.nn.utils.rnn.pad_sequence
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    return pad(ids, batch_first=True), pad(list(positions), batch_first=True), lengths


def _text(count: int, first: int) -> Tensor:
    return torch.arange(first, first + count)[:, None].expand(-1, 3)
