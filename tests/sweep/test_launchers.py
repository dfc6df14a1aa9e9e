"""What launchers decide before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vedit.cli.sweep import launcher_of
from vedit.errors import ConfigError
from vedit.sweep.conduct import make_launcher
from vedit.sweep.folder import Recorded
from vedit.sweep.launchers.base import Launcher, Queued
from vedit.sweep.launchers.local import Local
from vedit.sweep.launchers.queue import _queued
from vedit.sweep.launchers.slurm import Slurm, _arrays
from vedit.sweep.worker import last_checkpoint


def run(digest: str, after: str | None = None, devices: int = 1, nodes: int = 1) -> Recorded:
    return Recorded(
        digest, digest, after, True, 1, 1, 1, 1.0, nodes=nodes, devices=devices, accelerator="gpu"
    )


def test_gpus_are_shared_out_by_what_runs_ask_for() -> None:
    slots = Local(gpus=[0, 1, 2, 3, 4]).slots([run("a"), run("b", devices=2)])
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0,1", "2,3"]
    assert len(Local(gpus=[0, 1, 2], jobs=2).slots([run("a")])) == 2
    with pytest.raises(ConfigError, match="asks for 4 GPUs, but 2 are visible"):
        Local(gpus=[0, 1]).slots([run("a", devices=4)])


def test_cores_are_shared_out_by_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)), raising=False)
    slots = Local(gpus=[], jobs=4).slots([run("a")])
    assert [slot["OMP_NUM_THREADS"] for slot in slots] == ["1"] * 4
    assert Local(gpus=[]).slots([run("a")])[0]["OMP_NUM_THREADS"] == "6"


def test_arrays_hold_runs_of_equal_needs_that_do_not_wait_for_each_other() -> None:
    runs = [run("a"), run("b", "a"), run("c", devices=8), run("d", "b"), run("e"), run("f", "gone")]
    arrays = [[r.digest for r in array] for array in _arrays(runs)]
    assert arrays == [["a", "e", "f"], ["c"], ["b"], ["d"]]


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("PENDING", "Resources", Queued("waiting", "pending (Resources)")),
        ("RUNNING", "None", Queued("running", "on n1")),
        ("CANCELLED by 0", "None", Queued("cancelled", "cancelled in the queue")),
        ("NODE_FAIL", "None", Queued("gone", "left the queue: node fail")),
        ("OUT_OF_MEMORY", "", Queued("gone", "left the queue: out of memory")),
    ],
)
def test_the_queue_is_understood(state: str, reason: str, expected: Queued) -> None:
    assert _queued(state, reason, "n1") == expected


def test_a_launcher_is_a_class_like_any_other() -> None:
    chosen = launcher_of({"launcher": "slurm", "launcher.partition": "gpu", "jobs": 3})
    made = make_launcher(chosen)
    assert isinstance(made, Slurm)
    assert made.options["partition"] == "gpu"
    assert made.options["array_parallelism"] == 3
    own = launcher_of({"launcher": f"{__name__}.Nothing"})
    assert isinstance(make_launcher(own), Nothing)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"launcher": "slrum"}, "no launcher is called 'slrum'. Did you mean 'slurm'?"),
        (
            {"launcher": "slurm", "launcher.partion": "x"},
            "partion: unknown key. Did you mean 'partition'?",
        ),
        ({"launcher": "torch.nn.Linear"}, "is no Launcher"),
        ({"launcher": "local", "jobs": 0}, None),
    ],
)
def test_launchers_that_are_wrong_are_refused(options: dict, expected: str | None) -> None:
    with pytest.raises(ConfigError) as raised:
        make_launcher(launcher_of(options))
    assert (expected or "--jobs: expected a number above 0") in str(raised.value)


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert last_checkpoint(tmp_path) is None
    torch.save({"step": torch.ones(99)}, folder / "step_0000001.ckpt")
    torch.save({"step": torch.ones(99)}, folder / "last.ckpt")
    assert last_checkpoint(tmp_path) == folder / "last.ckpt"
    whole = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    assert last_checkpoint(tmp_path) == folder / "step_0000001.ckpt"


class Nothing(Launcher):
    """Starts nothing."""

    def launch(self, folder: object, runs: object, tick: object) -> None:
        """Do nothing."""
