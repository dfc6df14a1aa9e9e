from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from vedit.editor.resize import resized, working_size

TRAINED, MULTIPLE = (64, 112), (16, 16)


@given(st.integers(16, 4320), st.integers(16, 7680))
def test_the_area_stays_near_the_trained_one_and_sides_suit_the_model(h: int, w: int) -> None:
    height, width = working_size(h, w, TRAINED, MULTIPLE)
    assert height % 16 == width % 16 == 0
    assert min(height, width) >= 16
    if 1 / 3 <= h / w <= 3:
        assert 0.6 < height * width / (64 * 112) < 1.5
        assert 0.6 < (height / width) / (h / w) < 1.7


def test_the_trained_aspect_ratio_gives_the_trained_size() -> None:
    for scale in (1, 2, 7.5):
        assert working_size(round(64 * scale), round(112 * scale), TRAINED, MULTIPLE) == TRAINED


def test_resizing_to_the_same_size_changes_nothing() -> None:
    frame = torch.rand(3, 12, 20)
    assert resized(frame, 12, 20) is frame


def test_resizing_keeps_flat_colour_and_stays_in_range() -> None:
    flat = torch.full((3, 31, 45), 0.25)
    torch.testing.assert_close(resized(flat, 16, 16), torch.full((3, 16, 16), 0.25))
    noise = torch.rand(3, 16, 16).round() * 2 - 1
    large = resized(noise, 61, 77)
    assert large.shape == (3, 61, 77)
    assert large.abs().max() <= 1
