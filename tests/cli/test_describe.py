"""`vedit describe`: the published sizes come out of the shipped configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import ROOT, make_config, make_shards, write_config

from vedit.cli import main

APPEND = ["--model.source", "AppendTokens", "--model.reference", "AppendTokens"]
AFTER = ["--model.reference.time", "after"]


def described(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["describe", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "size", "more", "tokens", "billions", "petaflops"),
    [
        ("wan2.2_ti2v_5b", (81, 704, 1280), [], 18480, 5.000, 0.871),
        ("wan2.2_ti2v_5b", (81, 704, 1280), APPEND + AFTER, 37840, 5.000, 2.592),
        ("wan2.1_t2v_14b", (81, 720, 1280), [], 75600, 14.288, 19.570),
        ("wan2.1_t2v_1.3b", (81, 480, 832), [], 32760, 1.419, 0.849),
    ],
)
def test_published_sizes(
    name: str,
    size: tuple[int, int, int],
    more: list[str],
    tokens: int,
    billions: float,
    petaflops: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames, height, width = map(str, size)
    found = described(
        capsys, "--config", str(ROOT / "configs" / "base" / f"{name}.yaml"), *more,
        "--frames", frames, "--height", height, "--width", width,
    )  # fmt: skip
    assert found["tokens"] == tokens
    assert found["parameters"]["transformer"] / 1e9 == pytest.approx(billions, abs=5e-4)
    assert found["step_flops"] / 1e15 == pytest.approx(petaflops, abs=6e-4)


def test_segments_say_where_they_lie_and_whom_they_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = make_config(make_shards(tmp_path / "shards"), tmp_path)
    tree["model"]["source"]["init_args"]["sees"] = ["source"]
    tree["model"]["reference"] = {
        "class_path": "AppendTokens",
        "init_args": {"time": "before", "noise": "shared"},
    }
    config = str(write_config(tmp_path / "tiny.yaml", tree))
    found = described(capsys, "--config", config, "--references", "2")
    rows = {row["name"]: row for row in found["segments"]}
    assert found["video"] == [5, 16, 24]  # of the first training sample
    assert list(rows) == ["target", "source", "reference"]
    assert rows["source"]["positions"] == [[0, 1], [0, 1], [0, 2]]
    assert rows["source"]["sigma"] == "0 (clean)"
    assert rows["source"]["sees"] == ["source"]
    assert rows["reference"]["positions"][0] == [-2, -1]
    assert rows["reference"]["sigma"] == "of the target"
    assert rows["target"]["sees"] == ["target", "source", "reference"]

    assert main(["describe", "--config", config]) == 0
    text = capsys.readouterr().out
    assert "model.injections.reference" in text
    assert "36 tokens per sample, 8 to cross-attend to" not in text  # two latent frames of source
    assert "30 tokens per sample, 8 to cross-attend to" in text


def test_frozen_and_adapted_parts_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config(tmp_path / "tiny.yaml", make_config(tmp_path, tmp_path)))
    size = ["--frames", "5", "--height", "16", "--width", "24"]
    full = described(capsys, "--config", config, *size)
    lora = described(
        capsys, "--config", config, *size, "--model.finetune.backbone", "LoRA",
        "--model.finetune.backbone.rank", "2",
    )  # fmt: skip
    parts = {row["name"]: row for row in full["parts"]}
    adapted = {row["name"]: row for row in lora["parts"]}
    assert parts["model.backbone"]["frozen"] == 0
    assert adapted["model.backbone"]["frozen"] == parts["model.backbone"]["trainable"]
    assert adapted["model.backbone"]["trainable"] == 16 * 2 * (24 + 24)
    assert full["step_flops"] == 3 * full["forward_flops"]
    assert full["forward_flops"] < lora["forward_flops"] < 1.2 * full["forward_flops"]
    assert lora["step_flops"] < full["step_flops"]


def test_what_is_computed_again_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write_config(tmp_path / "tiny.yaml", make_config(tmp_path, tmp_path)))
    size = ["--config", config, "--frames", "5", "--height", "64", "--width", "96"]
    key = "--model.backbone.recompute"
    steps = [
        described(capsys, *size, *more)["step_flops"]
        for more in (
            (),
            (key, "RecomputeFeedForward"),
            (key, "{class_path: EveryKth, init_args: {k: 2, recompute: RecomputeBlocks}}"),
            (key, "KeepAttention"),
            (key, "OffloadInputs"),
            (key, "RecomputeBlocks"),
        )
    ]
    forward = described(capsys, *size)["forward_flops"]
    assert steps[0] < steps[1] < steps[3] < steps[4] == steps[5]
    assert steps[2] == pytest.approx(3.5 * forward)
    assert steps[5] == pytest.approx(4 * forward)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "5"], "--frames, --height, --width: expected three whole numbers"),
        (["--frames", "5", "--height", "20", "--width", "24"], "multiples of 8 and 8"),
        ([], "--frames, --height, --width: missing, and data.train cannot tell"),
        (["--checkpoint", "none.ckpt"], "--checkpoint: no such file or folder: none.ckpt"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config(tmp_path / "tiny.yaml", make_config(tmp_path, tmp_path)))
    if "--checkpoint" in arguments:
        arguments = [*arguments, "--frames", "5", "--height", "16", "--width", "24"]
    assert main(["describe", "--config", config, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_memory_by_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write_config(tmp_path / "tiny.yaml", make_config(tmp_path, tmp_path)))
    size = ["--config", config, "--frames", "5", "--height", "64", "--width", "96"]
    one = described(capsys, *size)["memory"]
    two = described(capsys, *size, "--batch", "2")["memory"]
    split = described(capsys, *size, "--batch", "2", "--context", "2")["memory"]
    assert two["activations"] == pytest.approx(2 * one["activations"])
    assert split["activations"] < two["activations"]
    assert split["gradients"] == one["gradients"] / 2
    half = described(capsys, *size, "--trainer.precision", "bf16-mixed")["memory"]
    assert half["activations"] < one["activations"]
    assert main(["describe", *size]) == 0
    assert "GiB a device by formula: weights" in capsys.readouterr().out
    assert main(["describe", *size, "--shard", "none"]) == 2
    assert "--shard: expected a whole number above 0, got 'none'" in capsys.readouterr().err


def test_the_attention_kernel_and_its_reason_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = make_config(tmp_path / "shards", tmp_path / "runs")
    tree["model"]["backbone"]["init_args"]["attention"] = "xformers"
    path = write_config(tmp_path / "tiny.yaml", tree)
    arguments = ["--frames", "5", "--height", "16", "--width", "24"]
    assert main(["describe", "--config", str(path), *arguments]) == 0
    expected = "attention here by sdpa (xformers runs on CUDA alone)"
    assert torch.cuda.is_available() or expected in capsys.readouterr().out
