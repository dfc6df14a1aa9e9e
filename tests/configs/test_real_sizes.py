"""The real sizes of the three systems: their configurations build and have the sizes published.

Expected figures: parameters of the released checkpoints; tokens and operations by the closed form
that agrees with maxdiffusion's own counter (19.573 PFLOP for Wan2.1-T2V-14B at 81 x 720 x 1280).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import ROOT

from vedit.cli import main

EXPERIMENTS = ROOT / "configs" / "experiments"


@dataclass(frozen=True)
class Size:
    """What an experiment is at one size of video.

    Attributes:
        video: frames, height, width.
        tokens: of the sequence with every condition present.
        transformer: billions of parameters, as published.
        forward: TFLOP of a forward pass.
        step: PFLOP of a training step.
        trains: millions of parameters, None where there is no published figure.
    """

    video: tuple[int, int, int]
    tokens: int
    transformer: float
    forward: float
    step: float
    trains: float | None = None


SIZES = {
    # LoRA with every activation recomputed: the table's LoRA figure and a forward pass more.
    "easyv2v/480p": Size((81, 480, 832), 16770, 5.000, 253.0, 0.613 + 0.253, 640),
    "easyv2v/704p": Size((81, 704, 1280), 37840, 5.000, 864.1, 2.263 + 0.864, 640),
}


def described(name: str, size: tuple[int, int, int], capsys: pytest.CaptureFixture) -> Any:
    frames, height, width = map(str, size)
    config = str(EXPERIMENTS / f"{name}.yaml")
    sizes = ["--frames", frames, "--height", height, "--width", width]
    assert main(["describe", "--config", config, *sizes, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_published(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = SIZES[name]
    found = described(name, expected.video, capsys)
    assert found["tokens"] == expected.tokens
    assert found["transformer"] / 1e9 == pytest.approx(expected.transformer, abs=5e-4)
    assert found["forward_flops"] / 1e12 == pytest.approx(expected.forward, rel=0.02)
    assert found["step_flops"] / 1e15 == pytest.approx(expected.step, rel=0.02)
    if expected.trains is not None:
        assert found["parameters"]["trainable"] / 1e6 == pytest.approx(expected.trains, rel=0.02)


def test_every_real_size_is_checked() -> None:
    real = {
        str(path.relative_to(EXPERIMENTS).with_suffix(""))
        for path in Path(EXPERIMENTS).rglob("*.yaml")
        if path.parent not in (EXPERIMENTS, EXPERIMENTS / "nano")
    }
    assert set(SIZES) == real
