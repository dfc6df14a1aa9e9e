"""Checkpoints in pieces, read by one process wherever a file would do."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from tests.tiny import make_config, make_shards, write_config
from torch import distributed

from vedit.cli import main
from vedit.editor.checkpoint import find_checkpoint, load_trained
from vedit.errors import WeightsError
from vedit.finetune.checkpoint_file import read_checkpoint
from vedit.finetune.trained import read_trained
from vedit.parallel.checkpoint import is_sharded, write_sharded
from vedit.parallel.optimizer_state import NamedState


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tree = make_config(make_shards(folder / "shards", 2), folder / "runs")
    tree["trainer"] |= {"max_steps": 1, "limit_val_batches": 0}
    tree["trainer"]["callbacks"] = [
        {"class_path": "PeriodicCheckpoint", "init_args": {"every_n_steps": 1}}
    ]
    assert main(["fit", "--config", str(write_config(folder / "tiny.yaml", tree))]) == 0
    return folder / "runs" / "tiny"


@pytest.fixture(scope="module")
def pieces(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint as a folder, of a group of one rank."""
    content = read_checkpoint(run / "checkpoints" / "last.ckpt", mmap=True)
    (state,) = content.pop("optimizer_states")
    names = {number: f"parameter{number}" for number in state["param_groups"][0]["params"]}
    tensors = {f"state_dict.{k}": v for k, v in content.pop("state_dict").items()}
    for number, values in state["state"].items():
        tensors |= {f"optimizer.0.0.{names[number]}.{k}": v for k, v in values.items()}
    groups = [{**g, "params": [names[n] for n in g["params"]]} for g in state["param_groups"]]
    named = NamedState({}, [{"groups": groups, "values": {}}])
    place = tmp_path_factory.mktemp("pieces") / "last.ckpt"
    with tempfile.TemporaryDirectory() as store:
        distributed.init_process_group("gloo", f"file://{store}/store", world_size=1, rank=0)
        write_sharded(place, tensors, {**content, "optimizers": [named.rest]})
        distributed.destroy_process_group()
    return place


def test_a_folder_holds_what_the_file_does(run: Path, pieces: Path) -> None:
    assert is_sharded(pieces)
    file = read_checkpoint(run / "checkpoints" / "last.ckpt")
    folder = read_checkpoint(pieces, resume=True)
    assert folder.keys() == file.keys()
    assert folder["config"] == file["config"]
    for one, two in (
        (folder["state_dict"], file["state_dict"]),
        *(
            (folder["optimizer_states"][0]["state"][number], values)
            for number, values in file["optimizer_states"][0]["state"].items()
        ),
    ):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert (
        folder["optimizer_states"][0]["param_groups"]
        == (file["optimizer_states"][0]["param_groups"])
    )


def test_shapes_are_told_without_reading(pieces: Path) -> None:
    state = read_checkpoint(pieces, device="meta")["state_dict"]
    assert all(tensor.is_meta for tensor in state.values())
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in read_trained(pieces).items()
    }


def test_a_run_of_pieces_edits_and_exports(run: Path, pieces: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(pieces, other / "checkpoints" / "last.ckpt")
    assert find_checkpoint(other) == other / "checkpoints" / "last.ckpt"
    one, two = load_trained(other).system.trained_state(), load_trained(run).system.trained_state()
    assert all(torch.equal(one[key], two[key]) for key in two)
    command = ["export", "--checkpoint", str(other), "--format", "comfyui"]
    assert main([*command, "--output", str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported" / "diffusion_model.safetensors").is_file()


@pytest.mark.parametrize("gone", ["__0_0.distcp", ".metadata", "meta.pt"])
def test_a_folder_that_lacks_a_file_is_one_line(gone: str, pieces: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ckpt"
    shutil.copytree(pieces, broken)
    (broken / gone).write_bytes((broken / gone).read_bytes()[:100])
    with pytest.raises(WeightsError, match=r"broken.ckpt: not a readable checkpoint, files are"):
        read_checkpoint(broken)
    (broken / gone).unlink()
    with pytest.raises(WeightsError, match=r"broken.ckpt: "):
        read_checkpoint(broken)
