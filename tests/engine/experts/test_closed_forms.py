"""Each family of edits against results known without running its code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vedit.engine.experts import experts
from vedit.engine.experts.colour import HEAT, colour_map, luma
from vedit.engine.experts.spatial import gaussian_blur, pixelate

EDIT = experts()


def noise(frames: int = 4, height: int = 32, width: int = 56) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(frames, 3, height, width, generator=generator) * 2 - 1


def plain(red: float, green: float, blue: float) -> Tensor:
    """A clip of one colour, given in [0, 1]."""
    return (torch.tensor([red, green, blue]) * 2 - 1).view(1, 3, 1, 1).repeat(2, 1, 32, 56)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("grayscale", (0.2, 0.4, 0.6), (0.363, 0.363, 0.363)),
        ("sepia", (0.2, 0.4, 0.6), (0.4996, 0.4450, 0.3466)),
        ("sepia", (1.0, 1.0, 1.0), (1.0, 1.0, 0.937)),
        ("negative", (0.2, 0.4, 0.6), (0.8, 0.6, 0.4)),
        ("hue_shift", (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
        ("hue_shift", (0.2, 0.4, 0.6), (0.6, 0.2, 0.4)),
        ("swap_red_blue", (0.2, 0.4, 0.6), (0.6, 0.4, 0.2)),
        ("brighten", (0.2, 0.4, 0.6), (0.4, 0.8, 1.0)),
        ("darken", (0.2, 0.4, 0.6), (0.08, 0.16, 0.24)),
        ("increase_contrast", (0.2, 0.4, 0.6), (0.0, 0.25, 0.75)),
        ("saturate", (0.3, 0.4, 0.5), (0.1370, 0.4370, 0.7370)),
        ("haze", (0.0, 0.0, 0.0), (0.468, 0.494, 0.52)),
        ("posterise", (0.2, 0.4, 0.8), (0.0, 0.5, 1.0)),
        ("solarise", (0.0, 0.5, 0.75), (0.0, 1.0, 0.5)),
        ("threshold", (0.2, 0.4, 0.6), (0.0, 0.0, 0.0)),
        ("threshold", (0.6, 0.6, 0.6), (1.0, 1.0, 1.0)),
        ("thermal", (0.0, 0.0, 0.0), HEAT[0]),
        ("thermal", (0.5, 0.5, 0.5), HEAT[2]),
        ("thermal", (1.0, 1.0, 1.0), HEAT[-1]),
        ("duotone", (0.5, 0.5, 0.5), (0.5, 0.475, 0.575)),
        ("night_vision", (0.0, 0.0, 0.0), (0.0, 0.05, 0.0)),
        ("tint_blue", (0.4, 0.4, 0.4), (0.1, 0.2, 0.5)),
        ("tint_red", (0.4, 0.4, 0.4), (0.5, 0.12, 0.1)),
        # Without texture, what works on differences has nothing to show.
        ("blur", (0.2, 0.4, 0.6), (0.2, 0.4, 0.6)),
        ("sharpen", (0.2, 0.4, 0.6), (0.2, 0.4, 0.6)),
        ("edges", (0.2, 0.4, 0.6), (0.0, 0.0, 0.0)),
        ("sketch", (0.2, 0.4, 0.6), (1.0, 1.0, 1.0)),
        ("emboss", (0.2, 0.4, 0.6), (0.5, 0.5, 0.5)),
    ],
)
def test_one_colour(
    name: str, before: tuple[float, float, float], after: tuple[float, float, float]
) -> None:
    edited = EDIT[name](plain(*before))
    middle = edited[:, :, 16:17, 28:29]  # rounding in a convolution may vary along the border
    assert torch.allclose(edited, middle.expand_as(edited), atol=2e-5)
    assert ((middle[0, :, 0, 0] + 1) / 2).tolist() == pytest.approx(after, abs=1e-4)


def test_gray_edits_have_equal_channels() -> None:
    for name in ("grayscale", "threshold", "edges", "sketch", "emboss"):
        red, green, blue = EDIT[name](noise()).unbind(1)
        assert torch.equal(red, green), name
        assert torch.equal(green, blue), name


@pytest.mark.parametrize(
    "name", ["negative", "swap_red_blue", "mirror", "flip_upside_down", "rotate_180", "reverse"]
)
def test_involutions_undo_themselves(name: str) -> None:
    video = noise()
    assert torch.equal(EDIT[name](EDIT[name](video)), video)


@pytest.mark.parametrize(
    "name",
    ["threshold", "posterise", "pixelate", "black_border", "letterbox", "checkerboard",
     "mirror_halves", "kaleidoscope", "freeze_first_frame"],
)  # fmt: skip
def test_projections_change_nothing_the_second_time(name: str) -> None:
    once = EDIT[name](noise())
    assert torch.allclose(EDIT[name](once), once, atol=1e-5)


def test_three_hue_shifts_and_four_shifts_are_the_identity() -> None:
    video = noise()
    hue, shift = EDIT["hue_shift"], EDIT["shift"]
    assert torch.equal(hue(hue(hue(video))), video)
    assert torch.equal(shift(shift(shift(shift(video)))), video)


def test_mirror_and_flip_make_half_a_turn() -> None:
    video = noise()
    assert torch.equal(EDIT["mirror"](EDIT["flip_upside_down"](video)), EDIT["rotate_180"](video))
    assert torch.equal(EDIT["mirror"](video)[..., 3], video[..., -4])


def test_colour_map_of_its_end_colours_is_linear_in_luma() -> None:
    unit = torch.rand(1, 3, 4, 5)
    black_to_white = colour_map(unit, ((0, 0, 0), (0.5, 0.5, 0.5), (1, 1, 1)))
    assert torch.allclose(black_to_white, luma(unit).expand_as(unit), atol=1e-6)


def test_pixelate_is_the_mean_of_each_block() -> None:
    video = noise()
    edited = EDIT["pixelate"](video)
    for top, left in ((0, 0), (12, 24), (28, 52)):
        block = edited[:, :, top : top + 4, left : left + 4]
        mean = video[:, :, top : top + 4, left : left + 4].mean((2, 3), keepdim=True)
        assert torch.allclose(block, mean.expand_as(block), atol=1e-6)
    assert not torch.allclose(edited[..., 0], edited[..., 4], atol=1e-3)


def test_pixelate_cannot_have_more_rows_than_pixels() -> None:
    video = noise(height=4, width=6)
    assert torch.allclose(pixelate(video, 100), video)


def test_blur_of_a_point_is_a_gaussian() -> None:
    sigma = 1.5
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1
    blurred = gaussian_blur(point, sigma)[0, 0]
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
    ratio = float(blurred[10, 12] / blurred[10, 10])
    assert ratio == pytest.approx(math.exp(-4 / (2 * sigma**2)), rel=1e-4)
    assert torch.allclose(blurred, blurred.T)


def test_edges_light_up_at_a_step_only() -> None:
    video = torch.full((1, 3, 64, 112), -1.0)
    video[..., 56:] = 1
    edges, sketch, emboss = (EDIT[name](video)[0, 0] for name in ("edges", "sketch", "emboss"))
    assert torch.all(edges[:, 55:57] == 1)
    assert torch.all(edges[:, :48] == -1)
    assert torch.all(edges[:, 64:] == -1)
    assert torch.allclose(sketch, -edges, atol=1e-6)
    assert torch.all(emboss[:, 55:57] < -0.5)  # rises towards the lower right: in shade
    assert torch.allclose(emboss[:, :48], torch.zeros(64, 48), atol=1e-5)


def test_sharpen_overshoots_at_a_step() -> None:
    video = torch.full((1, 3, 64, 112), -0.3)
    video[..., 56:] = 0.3
    row = EDIT["sharpen"](video)[0, 0, 32]
    assert row[55] < -0.6
    assert row[56] > 0.6
    assert float(row[20]) == pytest.approx(-0.3, abs=1e-5)


def test_zoom_in_of_a_ramp_halves_its_slope() -> None:
    ramp = torch.linspace(-1, 1, 56).expand(1, 3, 32, 56)
    zoomed = EDIT["zoom_in"](ramp)
    assert torch.allclose(zoomed, ramp / 2, atol=0.02)
    assert torch.allclose(zoomed.mean(), torch.zeros(()), atol=1e-5)


@pytest.mark.parametrize("name", ["black_border", "letterbox", "zoom_out"])
def test_bars_are_black_around_the_picture(name: str) -> None:
    video = noise().clamp(min=-0.9)
    edited = EDIT[name](video)
    top, left = {"black_border": (4, 4), "letterbox": (6, 0), "zoom_out": (8, 14)}[name]
    inside = torch.zeros(32, 56, dtype=torch.bool)
    inside[top : 32 - top, left : 56 - left] = True
    assert torch.all(edited[..., ~inside] == -1)
    assert torch.all(edited[..., inside] > -0.95)
    if name != "zoom_out":
        assert torch.equal(edited[..., inside], video[..., inside])


def test_half_size_copies_are_means_of_two_by_two() -> None:
    video = noise()
    copy = video.unflatten(-1, (28, 2)).unflatten(-3, (16, 2)).mean((-1, -3))
    tiled, zoomed = EDIT["tile"](video), EDIT["zoom_out"](video)
    for corner in (tiled[..., :16, :28], tiled[..., 16:, 28:], zoomed[..., 8:24, 14:42]):
        assert torch.allclose(corner, copy, atol=1e-6)


def test_checkerboard_and_scanlines_alternate() -> None:
    video = torch.ones(1, 3, 64, 112)
    squares, lines = EDIT["checkerboard"](video)[0, 0], EDIT["scanlines"](video)[0, 0]
    assert torch.all(squares[:8, :8] == 1)
    assert torch.all(squares[:8, 8:16] == -1)
    assert torch.all(squares[8:16, 8:16] == 1)
    assert float((squares == 1).float().mean()) == 0.5
    assert torch.equal(lines[:, 0] == 1, torch.arange(64) % 4 < 2)


def test_vignette_and_spotlight_keep_the_middle() -> None:
    video = torch.ones(1, 3, 64, 112)
    vignette, spotlight = EDIT["vignette"](video)[0, 0], EDIT["spotlight"](video)[0, 0]
    assert float(vignette[32, 56]) == float(spotlight[32, 56]) == 1
    assert float(vignette[0, 0]) == -1
    assert -0.9 < float(spotlight[0, 0]) < -0.8
    assert torch.all(vignette[32, 56:].diff() <= 0)


def test_symmetric_edits_are_symmetric_and_keep_their_part() -> None:
    video = noise()
    halves, quarters = EDIT["mirror_halves"](video), EDIT["kaleidoscope"](video)
    assert torch.equal(halves, halves.flip(-1))
    assert torch.equal(halves[..., :28], video[..., :28])
    assert torch.equal(quarters, quarters.flip(-1))
    assert torch.equal(quarters, quarters.flip(-2))
    assert torch.equal(quarters[..., :16, :28], video[..., :16, :28])


def test_fades_are_linear_in_time() -> None:
    video = torch.ones(5, 3, 8, 8)
    light = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    for name, start, expected in (
        ("fade_to_black", video, light),
        ("fade_from_black", video, light.flip(0)),
        ("fade_to_white", -video, light.flip(0)),
    ):
        levels = (EDIT[name](start)[:, 0, 0, 0] + 1) / 2
        assert torch.allclose(levels, expected, atol=1e-6), name


def test_curtain_covers_the_width_at_the_last_frame() -> None:
    video = noise(frames=5).clamp(min=-0.9)
    edited = EDIT["curtain"](video)
    covered = (edited == -1).all(1).all(1)  # (F, W)
    assert covered.sum(1).tolist() == [0, 14, 28, 42, 56]
    assert torch.equal(edited[2, :, :, 28:], video[2, :, :, 28:])


def test_reverse_freeze_and_strobe() -> None:
    video = noise()
    assert torch.equal(EDIT["reverse"](video)[0], video[-1])
    frozen = EDIT["freeze_first_frame"](video)
    assert torch.equal(frozen, video[:1].expand_as(video))
    strobe = EDIT["strobe"](video)
    assert torch.allclose(strobe[::2], video[::2], atol=1e-6)
    assert torch.allclose(strobe[1::2] + 1, (video[1::2] + 1) / 10, atol=1e-6)
