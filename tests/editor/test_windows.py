from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vedit.editor.windows import count_windows, cut, fade, join


def stream(frames: int) -> list[Tensor]:
    """Frame i is all i."""
    return [torch.full((1, 2, 2), float(i)) for i in range(frames)]


def values(windows: list[tuple[Tensor, int]]) -> list[tuple[list[float], int]]:
    return [(window[:, 0, 0, 0].tolist(), real) for window, real in windows]


def test_neighbours_share_the_overlap_and_the_last_window_repeats_its_last_frame() -> None:
    assert values(list(cut(stream(7), 5, 2))) == [
        ([0, 1, 2, 3, 4], 5),
        ([3, 4, 5, 6, 6], 4),
    ]


@pytest.mark.parametrize(("frames", "windows"), [(1, 1), (5, 1), (6, 2), (8, 2), (9, 3)])
def test_no_window_shows_only_what_was_shown_before(frames: int, windows: int) -> None:
    assert len(list(cut(stream(frames), 5, 2))) == windows


@given(st.integers(1, 40), st.integers(1, 9).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n - 1))
))  # fmt: skip
def test_joining_what_was_cut_gives_the_stream_back(frames: int, size: tuple[int, int]) -> None:
    length, overlap = size
    windows = list(cut(stream(frames), length, overlap))
    assert len(windows) == count_windows(frames, length, overlap)
    assert all(len(window) == length for window, _ in windows)
    joined = torch.stack(list(join(windows, overlap)))
    assert joined.shape[0] == frames
    torch.testing.assert_close(joined, torch.stack(stream(frames)))


def test_the_overlap_moves_linearly_from_one_window_to_the_next() -> None:
    windows = [(torch.zeros(5, 1, 1, 1), 5), (torch.ones(5, 1, 1, 1), 5)]
    joined = torch.stack(list(join(windows, 3))).flatten()
    assert joined.tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]


def test_the_fade_is_symmetric() -> None:
    torch.testing.assert_close(fade(4) + fade(4).flip(0), torch.ones(4))


def test_cutting_is_lazy_and_holds_one_window() -> None:
    asked = 0

    def counting() -> object:
        nonlocal asked
        for frame in stream(100):
            asked += 1
            yield frame

    windows = cut(counting(), 5, 2)  # type: ignore[arg-type]
    next(windows)
    assert asked == 5
    next(windows)
    assert asked == 8
