"""What every shipped edit promises, and how edits are found by name."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from vedit.engine.experts import Expert, expert, experts
from vedit.engine.experts.apply import LOCAL, apply_edit, local_instruction
from vedit.errors import ConfigError, DataError

EXPERTS = experts()
every = pytest.mark.parametrize("edit", EXPERTS.values(), ids=EXPERTS)


class Overexpose(Expert):
    name = "overexpose"
    instructions = ("Overexpose the video",)

    def __call__(self, video: Tensor) -> Tensor:
        return (video * 2 + 1).clamp(-1, 1)


def textured(frames: int = 5, height: int = 32, width: int = 56) -> Tensor:
    """White noise: every pixel of every frame differs from its neighbours."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(frames, 3, height, width, generator=generator) * 2 - 1


def smooth(frames: int = 3, height: int = 64, width: int = 112) -> Tensor:
    """A few colours that change slowly over the frame, sampled without aliasing."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(frames, 3, 4, 7, generator=generator) * 2 - 1
    return functional.interpolate(coarse, (height, width), mode="bicubic").clamp(-1, 1)


@every
def test_keeps_shape_range_and_dtype_and_changes_the_clip(edit: Expert) -> None:
    video = textured()
    edited = edit(video)
    assert edited.shape == video.shape
    assert edited.dtype == torch.float32
    assert torch.isfinite(edited).all()
    assert edited.min() >= -1
    assert edited.max() <= 1
    assert (edited - video).abs().mean() > 0.02


@every
def test_is_a_pure_function(edit: Expert) -> None:
    video = textured()
    before = video.clone()
    first = edit(video)
    assert torch.equal(first, edit(video))
    first.fill_(0.5)  # fails too if the result is a view that shares memory
    assert torch.equal(video, before)


@every
@pytest.mark.parametrize("size", [(1, 17, 23), (4, 9, 5)])
def test_works_at_odd_sizes(edit: Expert, size: tuple[int, int, int]) -> None:
    video = textured(*size)
    edited = edit(video)
    assert edited.shape == video.shape
    assert edited.abs().max() <= 1


@every
def test_extremes_stay_in_range(edit: Expert) -> None:
    for level in (-1.0, 1.0):
        edited = edit(torch.full((2, 3, 32, 56), level))
        assert edited.abs().max() <= 1


# Shifted by the fraction of a pixel or quantised: near a jump a pixel may fall on either side.
LOOSE = {"edges", "sketch", "emboss", "sharpen", "posterise", "threshold"}


@every
def test_looks_the_same_at_twice_the_resolution(edit: Expert) -> None:
    """Mean difference below 0.02 of the range 2, or 0.06 for edits with steep responses."""
    fine = smooth()
    coarse = functional.avg_pool2d(fine, 2)
    difference = (functional.avg_pool2d(edit(fine), 2) - edit(coarse)).abs().mean()
    assert difference < (0.06 if edit.name in LOOSE else 0.02)


@every
def test_temporal_says_whether_the_order_matters(edit: Expert) -> None:
    video = textured()
    commutes = torch.allclose(edit(video.flip(0)), edit(video).flip(0), atol=1e-5)
    shuffled = video[[2, 0, 1, 4, 3]]
    commutes &= torch.allclose(edit(shuffled), edit(video)[[2, 0, 1, 4, 3]], atol=1e-5)
    assert commutes is not edit.temporal


def test_names_are_snake_case_and_there_are_many() -> None:
    assert len(EXPERTS) >= 30
    for name, edit in EXPERTS.items():
        assert edit.name == name
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)
    assert list(EXPERTS) == list(experts())


def test_wordings_are_many_and_belong_to_one_edit() -> None:
    wordings = [text.casefold() for edit in EXPERTS.values() for text in edit.instructions]
    assert len(set(wordings)) == len(wordings)
    for edit in EXPERTS.values():
        assert len(edit.instructions) >= 5
        assert len({len(text) for text in edit.instructions}) >= 3
        for text in edit.instructions:
            assert text[0].isupper()
            assert text[-1].isalnum()


def test_targets_differ_between_edits() -> None:
    video = textured()
    targets = {name: edit(video) for name, edit in EXPERTS.items()}
    names = list(targets)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert (targets[name] - targets[other]).abs().mean() > 0.02, (name, other)


def test_expert_by_name_and_by_path() -> None:
    assert expert("sepia").name == "sepia"
    found = expert("vedit.engine.experts.spatial.Blur")
    assert type(found) is type(EXPERTS["blur"])
    own = expert(f"{__name__}.Overexpose")
    video = textured()
    assert torch.equal(apply_edit(own, video), (video * 2 + 1).clamp(-1, 1))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sepa", "Did you mean 'sepia'"),
        ("vedit.engine.experts.spatial.NoSuchEdit", "cannot be imported"),
        ("vedit.no_such_module.Blur", "cannot be imported"),
        (".Blur", "cannot be imported"),
        ("pathlib.Path", "expected a subclass of Expert"),
        ("vedit.engine.experts.base.Expert", "cannot be made without arguments"),
    ],
)
def test_unknown_experts_are_named(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        expert(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@every
def test_apply_edit_is_exact_on_both_sides_of_the_mask(edit: Expert) -> None:
    video = textured()
    mask = torch.zeros(5, 1, 32, 56)
    mask[1:, :, 8:24, 10:40] = 1
    target = apply_edit(edit, video, mask)
    inside = mask.bool().expand_as(video)
    assert torch.equal(target[~inside], video[~inside])
    assert torch.equal(target[inside], edit(video)[inside])
    assert torch.equal(apply_edit(edit, video), edit(video))


def test_local_edits_show_in_a_central_region() -> None:
    video = textured(height=64, width=112)
    mask = torch.zeros(5, 1, 64, 112)
    mask[:, :, 24:40, 40:72] = 1
    for edit in EXPERTS.values():
        if edit.local:
            changed = (apply_edit(edit, video, mask) != video).float().mean()
            assert changed > 0.01, edit.name


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(5, 3, 32, 56), "expected (5, 1, 32, 56)"),
        (torch.ones(4, 1, 32, 56), "mask is (4, 1, 32, 56)"),
        (torch.full((5, 1, 32, 56), 0.5), "other than 0 and 1"),
    ],
)
def test_apply_edit_refuses_other_masks(mask: Tensor, words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)):
        apply_edit(EXPERTS["sepia"], textured(), mask)


def test_apply_edit_refuses_other_videos() -> None:
    with pytest.raises(DataError, match=r"sepia: video is \(3, 5, 32, 56\)"):
        apply_edit(EXPERTS["sepia"], textured().transpose(0, 1))


def test_local_instructions_combine_every_wording_with_every_region() -> None:
    edit = EXPERTS["grayscale"]
    count = len(edit.instructions) * len(LOCAL)
    texts = [local_instruction(edit, index) for index in range(count)]
    assert len(set(texts)) == count
    assert local_instruction(edit, count) == texts[0]
    for index, text in enumerate(texts):
        assert edit.instructions[index % len(edit.instructions)].casefold() in text.casefold()
        assert text[0].isupper()
        assert re.search(r"marked region|mask|selected area", text)
