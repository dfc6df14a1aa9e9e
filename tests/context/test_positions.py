"""Rotary positions of prompts with pictures."""

from __future__ import annotations

import pytest

from vedit.context.positions import grids_in_order, rope_positions
from vedit.errors import DataError


def test_positions_go_past_the_largest_index() -> None:
    visual = [False, *[True] * 12, False, False]
    positions = rope_positions(visual, [(6, 2, 4)], time_step=2)
    assert positions[1:13, 0].tolist() == [1 + 2 * (i // 2) for i in range(12)]
    assert positions[12].tolist() == [11, 1, 2]
    assert positions[13:].tolist() == [[12] * 3, [13] * 3]


def test_time_steps_of_fractions_are_cut_off() -> None:
    positions = rope_positions([True] * 3, [(3, 2, 2)], time_step=1.6)
    assert positions[:, 0].tolist() == [0, 1, 3]


def test_pictures_must_fill_their_places() -> None:
    with pytest.raises(DataError, match="no room for the 4 tokens"):
        rope_positions([False, True, True], [(1, 4, 4)])
    with pytest.raises(DataError, match="more picture tokens than its 1 pictures"):
        rope_positions([True, False, True], [(1, 2, 2)])
    with pytest.raises(DataError, match="more pictures by token 7"):
        grids_in_order([7, 1, 7], {7: [(1, 2, 2)]})
    with pytest.raises(DataError, match="1 pictures have no place"):
        grids_in_order([1], {7: [(1, 2, 2)]})


def test_grids_are_ordered_as_the_prompt_shows_them() -> None:
    grids = {8: [(1, 2, 4), (1, 4, 4)], 9: [(2, 2, 2)]}
    tokens = [1, 8, 8, 2, 9, 9, 3, 8, 8, 8, 8]
    assert grids_in_order(tokens, grids) == [(1, 2, 4), (2, 2, 2), (1, 4, 4)]
