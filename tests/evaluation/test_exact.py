from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vedit.evaluation.exact import (
    PSNR_CEILING,
    instruction_accuracy,
    per_edit,
    psnr,
    psnr_gain,
    score_case,
    summarise,
)


def flat(level: int) -> Tensor:
    """A clip of one grey level: PSNR between two of them depends on their difference alone."""
    return torch.full((2, 4, 6, 3), level, dtype=torch.uint8)


# |a - b| = 255 / 10^(dB / 20): 25 dB is a difference of 14.3, 22 dB one of 20.3.
SOURCE = flat(0)
TARGETS = {"dim": flat(60), "mid": flat(120), "bright": flat(240)}


def test_psnr_of_a_constant_difference_has_a_closed_form() -> None:
    assert psnr(flat(10), flat(35)) == pytest.approx(20 * math.log10(255 / 25))
    assert psnr(flat(255), flat(0)) == pytest.approx(0)


def test_psnr_does_not_wrap_around_in_uint8() -> None:
    assert psnr(flat(0), flat(1)) == psnr(flat(1), flat(0))


def test_psnr_of_equal_clips_is_infinite() -> None:
    assert psnr(flat(7), flat(7)) == math.inf


def test_psnr_takes_signed_video_with_its_own_peak() -> None:
    signed = psnr(flat(10) / 127.5 - 1, flat(35) / 127.5 - 1, peak=2.0)
    assert signed == pytest.approx(psnr(flat(10), flat(35)), abs=1e-4)


def test_psnr_of_different_shapes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 6, 3\).*\(1, 4, 6, 3\)"):
        psnr(flat(0), flat(0)[:1])


def test_an_edit_is_right_when_its_own_target_is_the_closest() -> None:
    outputs = {"dim": flat(70), "mid": flat(200), "bright": flat(181)}
    rows = score_case("c", SOURCE, outputs, TARGETS)
    assert [r.nearest for r in rows] == ["dim", "bright", "bright"]
    assert instruction_accuracy({"c": outputs}, {"c": TARGETS}) == pytest.approx(2 / 3)


def test_copying_the_source_is_right_for_no_edit_but_the_one_closest_to_it() -> None:
    copies = dict.fromkeys(TARGETS, SOURCE)
    assert instruction_accuracy({"c": copies}, {"c": TARGETS}) == pytest.approx(1 / 3)


def test_an_output_halfway_between_two_targets_is_wrong() -> None:
    (row,) = score_case("c", SOURCE, {"dim": flat(90)}, TARGETS)
    assert not row.right


@pytest.mark.parametrize(("apart", "right"), [(14, True), (15, False)])
def test_targets_closer_than_25_db_are_not_held_against_each_other(apart: int, right: bool) -> None:
    targets = {"a": flat(100), "twin": flat(100 + apart), "far": flat(0)}
    (row,) = score_case("c", SOURCE, {"a": targets["twin"]}, targets)
    assert row.right is right
    assert row.rivals == (1 if right else 2)


def test_an_ambiguous_twin_does_not_excuse_a_third_edit() -> None:
    targets = {"a": flat(100), "twin": flat(110), "far": flat(0)}
    (row,) = score_case("c", SOURCE, {"a": flat(5)}, targets)
    assert row.nearest == "far"


def test_an_edit_without_rivals_tells_nothing_about_the_instruction() -> None:
    rows = score_case("c", SOURCE, {"dim": flat(60)}, {"dim": flat(60)})
    assert summarise(rows).instruction_accuracy is None
    assert instruction_accuracy({}, {}) is None


def test_accuracy_compares_with_targets_nobody_asked_for() -> None:
    assert instruction_accuracy({"c": {"dim": flat(118)}}, {"c": TARGETS}) == 0


def test_an_output_without_a_target_is_an_error() -> None:
    with pytest.raises(ValueError, match="c: output 'other' has no target"):
        score_case("c", SOURCE, {"other": SOURCE}, TARGETS)


def test_gain_is_the_mean_improvement_over_doing_nothing() -> None:
    rows = score_case("c", SOURCE, {"dim": flat(54), "mid": flat(0)}, TARGETS)
    # from a difference of 60 to one of 6: 20 dB; and no step at all.
    assert psnr_gain(rows) == pytest.approx((20 + 0) / 2)
    both = summarise(rows)
    assert both.psnr_edit is not None
    assert both.psnr_source is not None
    assert both.psnr_edit - both.psnr_source == pytest.approx(10)


def test_edits_that_hardly_show_do_not_count_for_fidelity() -> None:
    targets = {"faint": flat(20), "plain": flat(21)}  # 22.1 dB and 21.7 dB from the source
    rows = score_case("c", SOURCE, dict.fromkeys(targets, flat(0)), targets)
    assert [r.changes for r in rows] == [False, True]
    assert summarise(rows).psnr_source == pytest.approx(20 * math.log10(255 / 21))
    assert summarise(rows[:1]).psnr_gain is None


def test_an_exact_output_counts_with_the_ceiling() -> None:
    rows = score_case("c", SOURCE, {"dim": flat(60)}, TARGETS)
    assert summarise(rows).psnr_edit == PSNR_CEILING


def test_table_by_edit_names_what_it_was_mistaken_for() -> None:
    rows = [
        *score_case("one", SOURCE, {"dim": flat(60), "mid": flat(230)}, TARGETS),
        *score_case("two", SOURCE, {"dim": flat(130), "mid": flat(235)}, TARGETS),
    ]
    table = per_edit(rows)
    assert list(table) == ["dim", "mid"]
    assert table["dim"].instruction_accuracy == 0.5
    assert table["dim"].mistaken_for == ("mid",)
    assert table["mid"].mistaken_for == ("bright",)
    assert table["mid"].samples == 2


@given(st.permutations(sorted(TARGETS)), st.integers(0, 255))
def test_the_order_of_edits_does_not_matter(order: list[str], level: int) -> None:
    targets = {name: TARGETS[name] for name in order}
    (row,) = score_case("c", SOURCE, {"mid": flat(level)}, targets)
    assert row.right is (90 < level < 180)
