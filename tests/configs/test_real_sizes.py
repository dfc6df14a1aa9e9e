"""The real sizes of the three systems: their configurations build and have the sizes published.

Expected figures: parameters of the released checkpoints; tokens and operations by the closed form
that agrees with maxdiffusion's own counter (19.573 PFLOP for Wan2.1-T2V-14B at 81 x 720 x 1280).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import ROOT

from vedit.cli import main

EXPERIMENTS = ROOT / "configs" / "experiments"


SMALL, LARGE = 5.000, 14.288
"""Billions of parameters of Wan2.2-TI2V-5B and Wan2.1-T2V-14B, as published."""


@dataclass(frozen=True)
class Size:
    """What an experiment is at one size of video.

    Attributes:
        video: frames, height, width.
        tokens: of the sequence with every condition present.
        context: tokens to cross-attend to, 0 without cross-attention.
        transformer: `SMALL` or `LARGE`.
        whole: whether the weights of the backbone get a gradient, rather than adapters or nothing.
        trains: millions of parameters.
        rank: of adapters on the attention layers of the backbone.
        rank_hidden: of those on its feed-forward layers.
    """

    video: tuple[int, int, int]
    tokens: int
    context: int
    transformer: float
    whole: bool
    trains: float
    rank: int = 0
    rank_hidden: int = 0


# Adapters of the language model, queries, two perceptrons (Kiwi-Edit's facts: 29.5 M, 15.73 M).
ALIGNED = 29.5 + 3.1 + 2 * 15.73
# The same for 14 B: rank 256 on seven layers of each block; perceptrons from 2048 to 5120.
ALIGNED_LARGE = 36 * 256 * 51968 / 1e6 + 3.1 + 2 * 36.7
WHOLE = 4977.8 + 0.6
LARGE_ADAPTERS = 40 * 128 * (8 * 2 * 5120 + 2 * (5120 + 13824)) / 1e6
LATENTS_14B = 0.33  # the patch embedding of 16 channels

SIZES = {
    "easyv2v/480p": Size((81, 480, 832), 16770, 512, SMALL, False, 640, 256, 256),
    "easyv2v/704p": Size((81, 704, 1280), 37840, 512, SMALL, False, 640, 256, 256),
    "kiwi_edit/stage1": Size((1, 1024, 1024), 1024, 256, SMALL, False, ALIGNED),
    "kiwi_edit/stage2_600": Size((81, 448, 800), 7350, 512, SMALL, True, WHOLE + ALIGNED),
    "kiwi_edit/stage2_720": Size((81, 704, 1280), 18480, 512, SMALL, True, WHOLE + ALIGNED),
    "kiwi_edit/stage3": Size((81, 704, 1280), 19360, 1508, SMALL, True, WHOLE + ALIGNED),
    "kiwi_edit/stage3_reference": Size((81, 704, 1280), 19360, 1508, SMALL, True, WHOLE + ALIGNED),
    "kiwi_edit/stage1_14b": Size((1, 1024, 1024), 4096, 256, LARGE, False, ALIGNED_LARGE),
    "kiwi_edit/stage2_600_14b": Size(
        (49, 448, 800), 18200, 512, LARGE, False, LARGE_ADAPTERS + ALIGNED_LARGE, 128, 128
    ),
    "kiwi_edit/stage2_720_14b": Size(
        (49, 704, 1280), 45760, 512, LARGE, False, LARGE_ADAPTERS + ALIGNED_LARGE, 128, 128
    ),
    # 79,200 tokens of video and 2,592 of its 16 frames and the reference in the language model;
    # 4.2 B parameters of cross-attention are left out.
    "mive/720p": Size((81, 720, 1280), 79200 + 2592, 0, LARGE, True, 10045.4 + LATENTS_14B + 47.2),
}


def forward(size: Size) -> tuple[float, float]:
    """FLOP of a forward pass in linear layers and in attention, by the closed form."""
    d, f, layers = (3072, 14336, 30) if size.transformer == SMALL else (5120, 13824, 40)
    tokens, context = size.tokens, size.context
    linear = 8 * d**2 * tokens + 4 * d * f * tokens
    linear += 4 * d**2 * (tokens + context) if context else 0
    return layers * linear, layers * 4 * tokens * (tokens + context) * d


def adapters(size: Size) -> float:
    """FLOP of the adapters: four layers read the tokens twice, two of the eight the context."""
    d, f, layers = (3072, 14336, 30) if size.transformer == SMALL else (5120, 13824, 40)
    attention = 2 * size.rank * 2 * d * (6 * size.tokens + 2 * size.context)
    return layers * (attention + 2 * size.rank_hidden * 2 * (d + f) * size.tokens)


def step(size: Size) -> float:
    """FLOP of a training step in which blocks are computed twice.

    The last product of each block is not where neither its gate trains nor an adapter of it.
    """
    linear, attention = forward(size)
    d, f, layers = (3072, 14336, 30) if size.transformer == SMALL else (5120, 13824, 40)
    again = linear + attention + adapters(size)
    again -= 0 if size.whole or size.rank_hidden else layers * 2 * d * f * size.tokens
    return (3 if size.whole else 2) * linear + 3 * attention + 3 * adapters(size) + again


@pytest.mark.parametrize(
    ("size", "tera", "peta"),
    [
        (replace(SIZES["easyv2v/480p"], rank=0, rank_hidden=0), 253.0, 0.613 + 0.253 - 0.0443),
        (replace(SIZES["easyv2v/704p"], rank=0, rank_hidden=0), 864.1, 2.263 + 0.864 - 0.1),
        (SIZES["kiwi_edit/stage2_720"], 290.5, 1.162),
        (Size((81, 720, 1280), 75600, 512, LARGE, True, 0), 6523.4, 26.094),
    ],
)
def test_the_closed_form_gives_the_known_figures(size: Size, tera: float, peta: float) -> None:
    assert sum(forward(size)) / 1e12 == pytest.approx(tera, rel=1e-3)
    assert step(size) / 1e15 == pytest.approx(peta, rel=1e-3)


def described(name: str, size: tuple[int, int, int], capsys: pytest.CaptureFixture) -> Any:
    frames, height, width = map(str, size)
    config = str(EXPERIMENTS / f"{name}.yaml")
    sizes = ["--frames", frames, "--height", height, "--width", width]
    blocks = ["--model.backbone.init_args.recompute", "RecomputeBlocks"]  # as `step` counts
    assert main(["describe", "--config", config, *sizes, *blocks, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


QUICK = ("easyv2v/704p", "kiwi_edit/stage3", "mive/720p")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SIZES]
)
def test_sizes_are_those_published(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = SIZES[name]
    found = described(name, expected.video, capsys)
    assert found["tokens"] == expected.tokens
    assert (found["context_tokens"] or 0) == expected.context
    assert found["transformer"] / 1e9 == pytest.approx(expected.transformer, abs=5e-4)
    assert found["forward_flops"] == pytest.approx(
        sum(forward(expected)) + adapters(expected), rel=0.005
    )
    assert found["step_flops"] == pytest.approx(step(expected), rel=0.005)
    assert found["parameters"]["trainable"] / 1e6 == pytest.approx(expected.trains, rel=0.02)


def test_every_real_size_is_checked() -> None:
    real = {
        str(path.relative_to(EXPERIMENTS).with_suffix(""))
        for path in Path(EXPERIMENTS).rglob("*.yaml")
        if path.parent not in (EXPERIMENTS, EXPERIMENTS / "nano")
    }
    assert set(SIZES) == real
