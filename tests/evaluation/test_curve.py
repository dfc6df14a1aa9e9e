from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from vedit.evaluation.curve import curve_svg, read_losses, smoothed


def test_curves_come_from_tensorboard_events_below_the_run(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "version_0")) as writer:
        for step in (0, 10, 20):
            writer.add_scalar("train/loss", 1 / (step + 1), step)
        writer.add_scalar("speed/step_seconds", 3.0, 0)
    curves = read_losses(tmp_path)
    assert list(curves) == ["train/loss"]
    assert [step for step, _ in curves["train/loss"]] == [0, 10, 20]
    assert curves["train/loss"][1][1] == pytest.approx(1 / 11)


def test_curves_come_from_metrics_csv_with_gaps(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train/loss,val/loss\n0,5,0.5,\n0,10,,0.4\n0,10,0.3,\n"
    )
    assert read_losses(tmp_path) == {
        "train/loss": [(5, 0.5), (10, 0.3)],
        "val/loss": [(10, 0.4)],
    }


def test_a_folder_without_logs_has_no_curves(tmp_path: Path) -> None:
    assert read_losses(tmp_path) == {}
    assert curve_svg({}) == ""
    assert curve_svg({"train/loss": [(0, float("nan"))]}) == ""


def test_smoothing_keeps_the_mean_and_bounds_the_points() -> None:
    points = [(step, float(step % 7)) for step in range(1000)]
    short = smoothed(points, bins=100)
    assert len(short) == 100
    assert sum(v for _, v in short) / 100 == pytest.approx(sum(v for _, v in points) / 1000)
    assert smoothed(points[:50], bins=100) == points[:50]


def test_a_falling_loss_is_drawn_falling_within_the_picture() -> None:
    svg = curve_svg({"train/loss": [(s, 2.0 ** -(s / 100)) for s in range(0, 500, 10)]})
    (path,) = re.findall(r'<polyline class="line line-0" points="([^"]+)"', svg)
    points = [tuple(map(float, pair.split(","))) for pair in path.split()]
    xs, ys = zip(*points, strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys)  # SVG's y points down
    width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0])
    assert min(xs) >= 0
    assert max(xs) <= width
    assert min(ys) >= 0
    assert max(ys) <= height
    assert len(re.findall(r'class="grid"', svg)) >= 3


def test_a_single_point_and_a_constant_loss_are_drawn() -> None:
    assert "<circle" in curve_svg({"val/loss": [(7, 0.5)]})
    assert "<polyline" in curve_svg({"train/loss": [(0, 0.5), (1, 0.5)]})
