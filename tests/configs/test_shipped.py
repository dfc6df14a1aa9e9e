"""Every shipped experiment composes, fits its classes, and trains one step at tiny size."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from tests.data.samples import sample, write_folder
from tests.tiny import BACKBONE, CODEC, CONTEXT, ROOT, make_config, write_config
from tests.tiny_vlm import QWEN25

from vedit.cli import main
from vedit.cli.experiment import check, read
from vedit.cli.extends import compose
from vedit.cli.yaml_file import Tree

CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted((CONFIGS / "experiments").rglob("*.yaml"))
OVERLAYS = sorted((CONFIGS / "debug").glob("*.yaml"))
OTHERS = sorted((CONFIGS / "nano").glob("pretrain.yaml"))


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


PICTURES = {"min_pixels": 784, "max_pixels": 3136, "multiple": None}
READER: dict[str, Any] = {
    "weights": None,
    "config": QWEN25,
    "tokenizer": str(ROOT / "nano" / "tokenizer"),
    "dtype": "float32",
    "views": {"max_frames": 4, "video": PICTURES, "image": PICTURES, "reference": PICTURES},
}
# What makes a part tiny; classes that are not here have no sizes of their own.
SIZES: dict[str, dict[str, Any]] = {
    "WanDiT": {**BACKBONE, "weights": None, "gradient_checkpointing": False},
    "WanVAE": {**CODEC, "weights": None, "dtype": "float32"},
    "UMT5": {**CONTEXT, "weights": None, "projection": None, "dtype": "float32"},
    "MLLMQueries": {**READER, "counts": {"image": 3, "video": 4, "reference": 5}},
    "MultiscaleVLM": READER,
    "LoRA": {"rank": 2, "alpha": None},
    "Euler": {"steps": 1},
    "UniPC": {"steps": 1},
    "OneCycleLR": {"total_steps": 2},
}


def shrink(tree: Any) -> Any:
    """The tree with tiny parts; which classes it names stays as it is."""
    if isinstance(tree, list):
        return [shrink(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    tree = {key: shrink(value) for key, value in tree.items()}
    name = str(tree.get("class_path", "")).rpartition(".")[2]
    if name in SIZES:
        tree["init_args"] = {**(tree.get("init_args") or {}), **copy.deepcopy(SIZES[name])}
    return tree


def tiny(tree: Tree, shards: Path) -> Tree:
    tree = shrink(tree)
    tree["model"] |= {"init_from": None}
    tree["data"] = {
        **(tree.get("data") or {}),
        "train": str(shards),
        "validation": str(shards),
        "test": None,
        "batch_size": 2,
        "turns": None,
        "eval_batch_size": None,
        "num_workers": 0,
        "pin_memory": False,
        "latents": "auto",
    }
    trainer = tree["trainer"]
    trainer |= {"accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 1}
    trainer |= {"max_steps": 1, "limit_val_batches": 1, "val_check_interval": 1}
    trainer |= {"accumulate_grad_batches": 1, "logger": False, "enable_checkpointing": False}
    trainer["callbacks"] = []
    return tree


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples with every condition, so that every injection runs."""
    folder = tmp_path_factory.mktemp("shards")
    write_folder(folder, [sample(i, mask=True, reference=True) for i in range(4)])
    return folder


@pytest.mark.parametrize("path", [*EXPERIMENTS, *OTHERS], ids=name_of)
def test_it_trains_one_step(
    path: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = read([str(path)])
    check(composed)  # as shipped: every key, class and type
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / "tiny.yaml", tiny(composed.tree, shards))
    assert main(["fit", "--config", str(config)]) == 0


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_its_run_is_named_after_it(path: Path) -> None:
    where = path.relative_to(CONFIGS / "experiments").with_suffix("")
    assert compose([path]).tree["name"] == str(where)


@pytest.mark.parametrize("path", OVERLAYS, ids=name_of)
def test_a_debug_overlay_runs_over_an_experiment(
    path: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / "tiny.yaml", make_config(shards, Path("runs")))
    short = ["--trainer.max_steps", "1"]
    assert main(["fit", "--config", str(config), "--config", str(path), *short]) == 0
    if path.stem == "profile":
        assert list((tmp_path / "runs" / "debug_profile").glob("*.json"))
    else:
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("path", sorted((CONFIGS / "base").glob("*.yaml")), ids=name_of)
def test_a_base_fits_its_classes(path: Path, tmp_path: Path) -> None:
    shared = {
        "extends": [str(CONFIGS / "base" / "nano.yaml"), str(CONFIGS / "base" / "trainer.yaml")]
    }
    config = write_config(tmp_path / "both.yaml", shared)
    check(read([str(config), str(path)]))


def test_overfitting_learns_by_heart(
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / "tiny.yaml", make_config(shards, Path("runs")))
    overlay = str(CONFIGS / "debug" / "overfit.yaml")
    more = ["--trainer.max_steps", "100", "--model.optimizer.lr", "0.03"]
    assert main(["fit", "--config", str(config), "--config", overlay, *more]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    losses = [float(line.split("train/loss ")[1].split()[0]) for line in lines]
    print(losses)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
