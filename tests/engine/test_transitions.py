"""A transition is the source, then a blend, then the target, and its mask says from when."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.engine import test_build
from tests.engine.test_build import config, quiet
from torch import Generator

from vedit.data.index import read_index
from vedit.data.media import decode_member
from vedit.data.schema import MASK, SOURCE, TARGET
from vedit.data.shards import ShardReader
from vedit.data.transforms import to_pixels
from vedit.engine.build import build
from vedit.engine.experts import expert
from vedit.engine.experts.apply import apply_edit
from vedit.engine.pixels import to_signed
from vedit.engine.transitions import blend_weights, sample_start, transition
from vedit.errors import ConfigError

clips = test_build.clips  # the fixture


@given(st.integers(2, 40), st.data())
def test_the_blend_is_a_centred_line(frames: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(1, frames - 1))
    blend = data.draw(st.integers(0, 12))
    weights = blend_weights(frames, start, blend)
    assert (weights.diff() >= 0).all()
    assert (weights[:start] < 0.5).all()
    assert (weights[start:] > 0.5).all()
    mixed = (weights > 0) & (weights < 1)
    if (blend + 1) // 2 <= min(start, frames - start):  # it does not reach over the ends
        assert int(mixed.sum()) == 2 * ((blend + 1) // 2)
    # Forward and backward are the same line.
    mirrored = blend_weights(frames, frames - start, blend).flip(0)
    torch.testing.assert_close(weights, 1 - mirrored)


def test_frames_outside_the_blend_are_untouched() -> None:
    generator = Generator().manual_seed(0)
    source, target = (torch.rand(9, 3, 4, 6, generator=generator) for _ in range(2))
    mixed = transition(source, target, 4, 2)
    assert torch.equal(mixed[:3], source[:3])
    assert torch.equal(mixed[5:], target[5:])
    torch.testing.assert_close(mixed[3], source[3] * 2 / 3 + target[3] / 3)
    torch.testing.assert_close(mixed[4], source[4] / 3 + target[4] * 2 / 3)
    assert torch.equal(transition(source, target, 4), torch.cat([source[:4], target[4:]]))


def test_every_frame_but_the_first_may_start() -> None:
    generator = Generator().manual_seed(0)
    assert {sample_start(generator, 5) for _ in range(100)} == {1, 2, 3, 4}


@pytest.mark.parametrize(("start", "blend"), [(0, 0), (9, 0), (3, -1)])
def test_mistakes_are_named(start: int, blend: int) -> None:
    with pytest.raises(ConfigError, match=r"transition: (start|blend) is"):
        transition(torch.zeros(9, 3, 2, 2), torch.zeros(9, 3, 2, 2), start, blend)


def test_built_samples_set_in_where_their_mask_does(clips: Path, tmp_path: Path) -> None:
    settings = {"edits": ["negative"], "windows": 8, "frames": 9, "crf": 0, "reference": True}
    plain = build(config(clips, tmp_path / "plain", **settings), quiet)
    made = build(
        config(clips, tmp_path / "made", transition_fraction=0.6, transition_blend=0, **settings),
        quiet,
    )
    reader = ShardReader(tmp_path / "made")
    changing = 0
    for entry, other in zip(made.entries, plain.entries, strict=True):
        source = to_pixels(decode_member(reader, entry, SOURCE))
        whole = apply_edit(expert("negative"), to_signed(source)).permute(0, 2, 3, 1)
        target = to_pixels(decode_member(reader, entry, TARGET)).float() / 127.5 - 1
        assert entry.record.has_mask == (MASK in entry.members)
        assert entry.record.instructions == other.record.instructions
        start = 0
        if entry.record.has_mask:
            changing += 1
            active = decode_member(reader, entry, MASK)[0].flatten(1).mean(1)
            start = int((active < 0).sum())
            assert active.tolist() == [-1.0] * start + [1.0] * (9 - start)
            assert 1 <= start < 9
        away = (target - whole).abs().flatten(1).mean(1)  # the files round colours
        assert (away[start:] < 0.05).all()
        assert (away[:start] > 0.1).all()
    assert 0 < changing < len(made.entries)
    assert read_index(tmp_path / "made").entries == made.entries


def test_folders_built_before_there_were_transitions_are_kept(
    clips: Path,
    tmp_path: Path,
) -> None:
    settings = config(clips, tmp_path / "out", windows=1)
    build(settings, quiet)
    assert "transition" not in (tmp_path / "out" / "build.json").read_text()
    lines: list[str] = []
    build(settings, lines.append)
    assert lines[0].startswith("keeping 1 of 1 shards")
