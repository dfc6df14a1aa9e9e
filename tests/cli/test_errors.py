"""Every kind of mistake in a configuration is one line that says where, what and what else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.tiny import make_config, make_shards, write_config

from vedit.cli import main


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("errors")
    return write_config(folder / "x.yaml", make_config(make_shards(folder / "s"), folder / "runs"))


def complain(capsys: pytest.CaptureFixture[str], config: Path, *more: str, code: int = 2) -> str:
    """The one line printed, without the "vedit: " in front of it."""
    assert main(["fit", "--config", str(config), *more]) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vedit: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("vedit: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle.source", "x"], "modle: unknown key. Did you mean 'model'?"),
        (["--model.sorce", "x"], "model.sorce: unknown key. Did you mean 'source'?"),
        (
            ["--model.source.tiem", "x"],
            "model.source.init_args.tiem: unknown key. Did you mean 'time'",
        ),
        (
            ["--model.backbone.gradient_checkpointing", "true"],
            "gradient_checkpointing: unknown key. It was renamed: write recompute: RecomputeBl",
        ),
        (["--data.trian", "x"], "data.trian: unknown key. Did you mean 'train'?"),
        (["--trainer.max_stps", "3"], "trainer.max_stps: unknown key. Did you mean 'max_steps'?"),
        (
            ["--trainer.callbacks+", "{class_path: SampleVideos, init_args: {every: 3}}"],
            "trainer.callbacks.2.init_args.every: unknown key",
        ),
        (["--model.optimizer.rate", "1"], "model.optimizer.init_args.rate: unknown key"),
        (
            ["--model.dropout.instr", "1"],
            "model.dropout.instr: unknown key. Did you mean 'instruct",
        ),
        (
            ["--model.source", "{class_path: AppendTokens, arguments: {}}"],
            "model.source.arguments: unknown key beside class_path",
        ),
        (["--model.source", "AppendToken"], "no Injection is called 'AppendToken'. Did you mean"),
        (["--model.source", "Euler"], "no Injection is called 'Euler'. There are: AddToTokens"),
        (
            ["--model.source", "vedit.flow.sampler.Euler"],
            "model.source.class_path: 'vedit.flow.sampler.Euler' is no Injection",
        ),
        (["--model.source", "nope.X"], "'nope.X': cannot import nope: No module named 'nope'"),
        (
            ["--model.source", "vedit.conditionin.add.AddToTokens"],
            "Did you mean 'vedit.conditioning.add'?",
        ),
        (
            ["--model.source", "vedit.conditioning.apend.AppendTokens"],
            "Did you mean 'vedit.conditioning.append'?",
        ),
        (
            ["--model.source", "vedit.conditioning.append.AppendTokes"],
            "vedit.conditioning.append has no 'AppendTokes'. Did you mean 'AppendTokens'?",
        ),
        (
            ["--model.source.time", "befor"],
            "expected one of 'aligned', 'before', 'after', got 'befor'",
        ),
        (["--trainer.max_steps", "abc"], "trainer.max_steps: expected int, got 'abc'"),
        (["--data.batch_size", "two"], "data.batch_size: expected int, got 'two'"),
        (["--model.backbone.patch_size", "[1, 2]"], "expected [int, int, int], got [1, 2]"),
        (["--model.optimizer.lr", "fast"], "model.optimizer.init_args.lr: expected float"),
        (["--model.codec", "null"], "model.codec: expected a Codec, got null"),
        (["--trainer", "5"], "trainer: expected keys with values, got 5"),
        (["--seed_everything", "abc"], "seed_everything: expected bool or int, got 'abc'"),
        (["--name", "../out"], "name: expected a folder name, got '../out'"),
        (["--model.seed", "${sed}"], "model.seed: '${sed}': no key 'sed' to take the value from"),
        (["--model.dropout.instruction", "2"], "dropout.instruction: expected a probability"),
        (["--trainer.limit_train_batches", "-3"], "trainer: You have passed invalid value -3"),
        (
            ["--trainer.strategy", "dpp"],
            "strategy: no strategy is called 'dpp'. Did you mean 'ddp'?",
        ),
        (["--trainer.strategy", "fsdp2"], "no strategy is called 'fsdp2'. Did you mean 'FSDP2'?"),
        (["--trainer.strategy", "FSPD2"], "no Strategy is called 'FSPD2'. Did you mean 'FSDP2'?"),
        (
            ["--trainer.strategy", "{class_path: FSDP2, init_args: {shards: 2}}"],
            "trainer.strategy.init_args.shards: unknown key. Did you mean 'shard'?",
        ),
        (
            ["--trainer.strategy", "{class_path: FSDP2, init_args: {frozen: full}}"],
            "strategy.init_args.frozen: expected one of 'sharded', 'replicated', got 'full'",
        ),
        (
            ["--trainer.strategy", "{class_path: FSDP2, init_args: {shard: 2}}"],
            "trainer.strategy: replicate 1 x shard 2 x context 1 makes 2 processes, but "
            "trainer.devices x trainer.num_nodes is 1; the sizes must multiply to that",
        ),
        (["--ckpt_path", "none.ckpt"], "ckpt_path: no such checkpoint: none.ckpt"),
        (["--config", "none.yaml"], "no such file: none.yaml"),
    ],
)
def test_a_wrong_configuration(
    arguments: list[str], message: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complain(capsys, config, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.train", "nowhere"], "nowhere"),
        (["--model.backbone.weights", "./nowhere"], "nowhere: no such folder"),
        (["--model.init_from", "nowhere.ckpt"], "nowhere.ckpt: no such checkpoint or folder"),
    ],
)
def test_a_missing_file(
    arguments: list[str], message: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complain(capsys, config, *arguments, code=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": {"source": {"class_path": "AppendToken"}}},
            "{file}: model.source.class_path: no ",
        ),
        ({"data": {"batch_size": "two"}}, "{file}: data.batch_size: expected int, got 'two'"),
        (
            {"trainer": {"nodes": 2}},
            "{file}: trainer.nodes: unknown key. Did you mean 'num_nodes'?",
        ),
    ],
)
def test_the_file_that_is_wrong_is_named(
    change: dict[str, Any],
    message: str,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    overlay = write_config(tmp_path / "over.yaml", change)
    said = complain(capsys, config, "--config", str(overlay))
    assert said.startswith(message.format(file=overlay))


def test_a_missing_argument_is_named(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = make_config(tmp_path, tmp_path)
    del tree["model"]["sampler"]
    path = write_config(tmp_path / "y.yaml", tree)
    assert "model.sampler: missing; EditSystem needs it" in complain(capsys, path)
