"""Where a film cuts, and how it is split in time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from vedit.data.clips import BBB_CREDITS_FROM, BBB_HELD_OUT_FROM
from vedit.data.shots import Shot, cut_shots, find_cuts, frame_differences, split_shots
from vedit.errors import DataError
from vedit.video import write_video

# The whole film, where `vedit data fetch-demo` puts it.
BBB = Path(__file__).parents[2] / "data" / "demo" / "bbb.mp4"


def film(lengths: list[int], motion: float = 1.0) -> Iterator[np.ndarray]:
    """Takes of textured ground that drift by ``motion`` grey levels a frame."""
    rng = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        ground = rng.integers(40, 100, (12, 16)) + 80 * (number % 2)
        for i in range(length):
            yield np.clip(ground + motion * i, 0, 255).astype(np.uint8)


def test_cuts_are_found_where_takes_meet() -> None:
    shots = cut_shots(film([30, 20, 45, 12]))
    assert shots == [Shot(0, 30), Shot(30, 50), Shot(50, 95), Shot(95, 107)]
    assert [len(s) for s in shots] == [30, 20, 45, 12]
    assert all(a.stop == b.start for a, b in pairwise(shots))


def test_one_take_has_no_cut() -> None:
    assert cut_shots(film([40])) == [Shot(0, 40)]


def test_strong_steady_motion_is_no_cut() -> None:
    """Each difference is large in itself, but none towers over its neighbours."""
    frames = [np.full((8, 8), 20 if i % 2 else 220, np.uint8) for i in range(30)]
    assert frame_differences(frames).min() > 100
    assert find_cuts(frame_differences(frames)) == []


def test_a_small_change_is_no_cut() -> None:
    differences = np.zeros(40)
    differences[20] = 11.9
    assert find_cuts(differences) == []
    differences[20] = 12.1
    assert find_cuts(differences) == [21]


def test_files_are_cached_beside_themselves(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    frames = torch.stack(
        [torch.from_numpy(f)[..., None].expand(-1, -1, 3).contiguous() for f in film([14, 16])]
    )
    write_video(path, frames, 24)
    expected = [Shot(0, 14), Shot(14, 30)]
    assert cut_shots(path) == expected
    cache = tmp_path / "film.mp4.shots.json"
    cache.write_text(cache.read_text().replace("[0, 14]", "[0, 13]"))
    assert cut_shots(path)[0] == Shot(0, 13)  # the cache is used
    write_video(path, frames[:20], 24)
    assert cut_shots(path) == [Shot(0, 14), Shot(14, 20)]  # but not for another file
    cache.write_text("{")
    assert cut_shots(path) == [Shot(0, 14), Shot(14, 20)]  # nor a damaged one


def test_the_end_of_a_film_is_held_out() -> None:
    shots = [Shot(0, 40), Shot(40, 50), Shot(50, 90), Shot(90, 130), Shot(130, 135), Shot(135, 500)]
    train, test = split_shots(shots, held_out=2, end=135)
    assert train == [Shot(0, 40), Shot(40, 50)]
    assert test == shots[2:]  # with the credits, which do not count
    with pytest.raises(DataError, match="4 asked, the film has 3"):
        split_shots(shots, held_out=4, end=135)


@pytest.mark.slow
@pytest.mark.skipif(not BBB.is_file(), reason="needs `vedit data fetch-demo`")
def test_the_held_out_part_of_the_demo_film_starts_where_the_table_says() -> None:
    shots = cut_shots(BBB, cache=False)
    assert len(shots) == 120
    assert sum(len(s) >= 33 for s in shots) == 110
    # The table also holds out a shot before the last 20 that are long enough: it is stricter.
    train, test = split_shots(shots, held_out=21, least=33, end=BBB_CREDITS_FROM)
    assert test[0].start == BBB_HELD_OUT_FROM == train[-1].stop
