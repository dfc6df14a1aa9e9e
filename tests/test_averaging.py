"""A moving average of the weights: its formula, its storage, and where it takes their place."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from tests.parallel.ranks import run_ranks
from tests.tiny import make_shards, make_system
from torch import Tensor, nn

from vedit.averaging import AveragedWeights, Averaging
from vedit.cli import main
from vedit.data.module import EditData
from vedit.editor.checkpoint import load_trained
from vedit.errors import ConfigError, WeightsError
from vedit.finetune.lora import LoRA
from vedit.finetune.plan import FinetunePlan

LORA = FinetunePlan(backbone=LoRA(rank=2))


@given(
    st.floats(0, 0.9999), st.booleans(), st.integers(1, 4), st.integers(0, 5), st.integers(1, 30)
)
def test_decays_are_a_function_of_the_step(
    decay: float, warm_up: bool, every: int, start: int, step: int
) -> None:
    averaging = Averaging(decay, warm_up, every, start)
    found = averaging.decay_at(step)
    if step - start < every:
        assert found == 0
    elif (step - start) % every:
        assert found is None
    else:
        n = (step - start) // every
        assert found == (min(decay, (1 + n) / (10 + n)) if warm_up else decay)


@pytest.mark.parametrize("key", [{"decay": 1.0}, {"every_n_steps": 0}])
def test_impossible_settings_are_refused(key: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"model.averaging.{next(iter(key))}"):
        Averaging(**key)


def test_half_weights_are_averaged_in_float32() -> None:
    weights = {"a.b": nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))}
    average = AveragedWeights(weights)
    weights["a.b"].data += 1
    for _ in range(10):
        average.update(weights, 0.999)
    assert average.get_parameter("a.b").dtype == torch.float32
    torch.testing.assert_close(average.get_parameter("a.b").data, torch.full((3,), 1 - 0.999**10))
    average.copy_into(weights)
    assert weights["a.b"].dtype == torch.bfloat16


class Watch(Callback):
    """Keeps the weights after each step, and those of each validation."""

    def __init__(self) -> None:
        self.stepped: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    @staticmethod
    def weights(system: Any) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in system.named_parameters() if p.requires_grad}

    def on_train_batch_end(self, trainer: Trainer, system: Any, *args: Any) -> None:
        self.stepped.append(self.weights(system))

    def on_validation_batch_start(self, trainer: Trainer, system: Any, *args: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(self.weights(system))
        if trainer.global_step == 2:  # as an interrupt or a timer would
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "middle.ckpt")

    def on_validation_end(self, trainer: Trainer, system: Any) -> None:
        self.after = self.weights(system)


def fit(
    folder: Path, shards: Path, steps: int, resume: Path | None = None, **changes: Any
) -> tuple[Any, Watch]:
    torch.manual_seed(0)
    watch = Watch()
    system = make_system(**{"averaging": Averaging(0.5, warm_up=False), **changes})
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, val_check_interval=2,
        check_val_every_n_epoch=None, limit_val_batches=1, num_sanity_val_steps=0,
        default_root_dir=folder, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[watch],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended")
        data = EditData(train=str(shards), validation=str(shards), batch_size=2)
        trainer.fit(system, data, ckpt_path=resume)
    trainer.save_checkpoint(folder / "end.ckpt")
    return system, watch


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.mark.parametrize("finetune", [LORA, pytest.param(FinetunePlan(), marks=pytest.mark.slow)])
def test_a_run_keeps_stores_and_validates_with_its_average(
    tmp_path: Path, shards: Path, finetune: FinetunePlan
) -> None:
    system, watch = fit(tmp_path, shards, 4, finetune=finetune)
    plain, alone = fit(tmp_path / "plain", shards, 4, finetune=finetune, averaging=None)
    average = watch.stepped[0]  # after one step: the first update copies or halves
    start = {n: p.detach() for n, p in _fresh(finetune).named_parameters() if p.requires_grad}
    average = start
    for number, weights in enumerate(watch.stepped):
        average = {n: 0.5 * average[n] + 0.5 * w for n, w in weights.items()}
        if number == 1:
            second = average
    for name, value in average.items():
        torch.testing.assert_close(system.average.get_parameter(name).data, value)
        torch.testing.assert_close(watch.validated[0][name], second[name])
        assert torch.equal(watch.stepped[-1][name], alone.stepped[-1][name])  # training is as ever
        assert torch.equal(watch.after[name], watch.stepped[-1][name])
        assert torch.equal(alone.validated[0][name], alone.stepped[1][name])
    middle = torch.load(tmp_path / "middle.ckpt", weights_only=True)["state_dict"]
    end = torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"]
    trained = {key for key in end if not key.startswith("average.")}
    assert trained == set(plain.trained_state())
    assert {f"average.{name}" for name in average} == set(end) - trained
    for name in average:
        key = name.replace(".default", "")
        assert torch.equal(middle[key], watch.stepped[1][name]), "stored in place of the weights"


def _fresh(finetune: FinetunePlan) -> Any:
    torch.manual_seed(0)
    system = make_system(finetune=finetune)
    system.configure_model()
    return system


def test_resuming_continues_the_average(tmp_path: Path, shards: Path) -> None:
    warm = {"averaging": Averaging(0.9, every_n_steps=2), "finetune": LORA}
    whole, _ = fit(tmp_path / "whole", shards, 6, **warm)
    fit(tmp_path / "first", shards, 3, **warm)
    second, _ = fit(tmp_path / "second", shards, 6, tmp_path / "first" / "end.ckpt", **warm)
    for key, value in whole.trained_state().items():
        assert torch.equal(value, second.trained_state()[key]), key
    with pytest.raises(WeightsError, match="unexpected: average"):
        fit(
            tmp_path / "x",
            shards,
            6,
            tmp_path / "first" / "end.ckpt",
            finetune=LORA,
            averaging=None,
        )


def test_the_average_may_live_on_the_host(tmp_path: Path, shards: Path) -> None:
    near, _ = fit(tmp_path / "near", shards, 2, finetune=LORA)
    far, _ = fit(
        tmp_path / "far", shards, 2, finetune=LORA, averaging=Averaging(0.5, False, device="cpu")
    )
    far.to("meta")  # everything moves but the average
    assert not any(p.is_meta for p in far.average.parameters())
    for a, b in zip(near.average.parameters(), far.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_editing_and_exporting_take_either(
    tmp_path: Path,
) -> None:
    """Through the command line: configuration, training, both kinds of weights, a next stage."""
    from tests.tiny_run import config, shards

    shards(tmp_path, "train")
    shards(tmp_path, "test")
    averaging = {"decay": 0.5, "warm_up": False}
    path = config(tmp_path, steps=2, averaging=averaging)
    assert main(["fit", "--config", str(path)]) == 0
    last = tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt"
    stored = torch.load(last, weights_only=True)["state_dict"]
    name = "model.backbone.proj_out.weight"
    found = {w: load_trained(last, weights=w).system for w in ("average", "trained", None)}
    assert torch.equal(found["trained"].get_parameter(name), stored[name])
    for weights in ("average", None):
        assert torch.equal(found[weights].get_parameter(name), stored[f"average.{name}"])
        assert found[weights].average is None
    assert not torch.equal(stored[name], stored[f"average.{name}"])
    out = str(tmp_path / "out")
    given = ["export", "--checkpoint", str(last), "--format", "diffusers", "--output", out]
    assert main([*given, "--weights", "trained"]) in (0, None)
    from safetensors.torch import load_file

    (file,) = Path(out).glob("transformer/*.safetensors")
    assert torch.equal(load_file(file)["proj_out.weight"], stored[name])
    nothing = config(tmp_path, name="next", steps=1, init_from=str(last))
    assert main(["fit", "--config", str(nothing)]) == 0
    after = tmp_path / "runs" / "next" / "checkpoints" / "last.ckpt"
    with pytest.raises(WeightsError, match="holds no average"):
        load_trained(after, weights="average")


def sharded_average() -> list[Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
    torch.manual_seed(0)
    spread = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
    fully_shard(spread, mesh=init_device_mesh("cpu", (2,)))
    made = []
    for module in (plain, spread):
        weights = dict(module.named_parameters())
        average = AveragedWeights(weights)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            module(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update(weights, 0.8)
        average.copy_into(weights)
        made.append((average, weights))
    same = [
        torch.allclose(a, b.full_tensor(), atol=1e-6)
        for a, b in zip(made[0][1].values(), made[1][1].values(), strict=True)
    ]
    pieces = [p.to_local().numel() < p.numel() for p in made[1][0].parameters()]
    return [same, pieces]


@pytest.mark.slow
def test_pieces_are_averaged_where_they_lie() -> None:
    for same, pieces in run_ranks(2, sharded_average):
        assert all(same)
        assert all(pieces)
