"""`EditSystem`: what trains, what is saved, what is drawn, and what comes out."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tests.tiny import BACKBONE, CONTEXT, built, make_batch, make_shards, make_system, shake
from torch import Tensor

from vedit.backbones.blocks import DualCrossBlock, UnifiedBlock
from vedit.backbones.wan import WanDiT
from vedit.conditioning.add import AddToTokens, PooledMask
from vedit.conditioning.append import AppendContext, AppendTokens
from vedit.conditioning.cross import CrossAttend
from vedit.conditioning.dropout import ConditionDropout
from vedit.context.umt5 import UMT5
from vedit.data.module import EditData
from vedit.errors import ConfigError, DataError, WeightsError
from vedit.finetune.frozen import Frozen
from vedit.finetune.lora import LoRA
from vedit.finetune.plan import FinetunePlan
from vedit.flow.path import interpolate, velocity

LORA = FinetunePlan(backbone=LoRA(rank=2))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


class Losses(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def fit(
    folder: Path,
    shards: Path,
    steps: int,
    resume: Path | None = None,
    accumulate: int = 1,
    **changes: Any,
) -> tuple[Trainer, list[float]]:
    torch.manual_seed(0)
    system = make_system(dropout=ConditionDropout(instruction=0.5, source=0.3), **changes)
    system.config = {"model": {"seed": 0}}
    record = Losses()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[record],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended")
        data = EditData(train=str(shards), batch_size=2)
        trainer.fit(system, data, ckpt_path=resume)
    trainer.save_checkpoint(folder / "end.ckpt")
    return trainer, record.losses


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_resuming_continues_the_same_streams_bit_for_bit(tmp_path: Path, shards: Path) -> None:
    # Three batches make an epoch: step 4 lies in the middle of the second.
    _, whole = fit(tmp_path / "whole", shards, 7)
    _, first = fit(tmp_path / "first", shards, 4)
    _, second = fit(tmp_path / "second", shards, 7, resume=tmp_path / "first" / "end.ckpt")
    assert whole == [*first, *second]
    expected, got = load(tmp_path / "whole" / "end.ckpt"), load(tmp_path / "second" / "end.ckpt")
    assert expected["global_step"] == got["global_step"] == 7
    for key, value in expected["state_dict"].items():
        assert torch.equal(value, got["state_dict"][key]), key
    moments = expected["optimizer_states"][0]["state"]
    for index, state in moments.items():
        assert torch.equal(state["exp_avg"], got["optimizer_states"][0]["state"][index]["exp_avg"])


def test_a_checkpoint_holds_what_trains_and_where_it_came_from(
    tmp_path: Path, shards: Path
) -> None:
    fit(tmp_path, shards, 1, finetune=LORA)
    checkpoint = load(tmp_path / "end.ckpt")
    kinds = {key.split(".")[1] for key in checkpoint["state_dict"]}
    assert kinds == {"backbone", "injections"}
    backbone = [key for key in checkpoint["state_dict"] if key.startswith("model.backbone.")]
    assert all(".lora_" in key for key in backbone)
    assert len(backbone) == 2 * 4 * 2 * 2  # A and B of four projections, two attentions, two blocks
    assert checkpoint["config"] == {"model": {"seed": 0}}
    assert checkpoint["vedit_version"]


def test_a_lora_checkpoint_is_restored(tmp_path: Path, shards: Path) -> None:
    trainer, _ = fit(tmp_path, shards, 2, finetune=LORA)
    trained = trainer.lightning_module
    fresh = built(finetune=LORA)
    state = load(tmp_path / "end.ckpt")["state_dict"]
    assert any((tensor != fresh.trained_state()[key]).any() for key, tensor in state.items())
    fresh.load_trained(state, "end.ckpt")
    for key, tensor in trained.trained_state().items():
        assert torch.equal(tensor, fresh.trained_state()[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("model.backbone.proj_out.bias"), "1 missing: .*proj_out.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (
            lambda state: state.update({"model.backbone.proj_out.bias": torch.zeros(3)}),
            r"proj_out.bias is \(3,\)",
        ),
    ],
)
def test_loading_is_strict(change: Any, message: str) -> None:
    system = built()
    state = dict(system.trained_state())
    change(state)
    with pytest.raises(WeightsError, match=message):
        system.load_trained(state, "some.ckpt")


def test_only_what_trains_is_optimised() -> None:
    system = built(finetune=FinetunePlan(backbone=Frozen()))
    optimised = {
        id(p) for group in system.configure_optimizers().param_groups for p in group["params"]
    }
    assert optimised == {id(p) for p in system.model.injections.parameters()}
    system.train()
    assert not system.codec.training
    assert not system.context.tower.training
    assert not system.model.backbone.training
    assert system.model.injections.training


def test_nothing_to_train_is_an_error() -> None:
    system = built(finetune=FinetunePlan(backbone=Frozen(), injections=Frozen()))
    with pytest.raises(ConfigError, match="model.finetune: nothing trains"):
        system.configure_optimizers()


def test_init_from_copies_what_matches_and_leaves_the_rest_new(
    tmp_path: Path, shards: Path
) -> None:
    trainer, _ = fit(tmp_path, shards, 2)
    old = trainer.lightning_module.trained_state()
    path = tmp_path / "end.ckpt"
    new = built(init_from=str(path), reference=AppendTokens, finetune=LORA)
    backbone = {
        key.replace(".base_layer", ""): v for key, v in new.model.backbone.state_dict().items()
    }
    for key, tensor in old.items():
        name = key.removeprefix("model.backbone.")
        if name != key:
            assert torch.equal(backbone[name], tensor), key
    assert torch.equal(
        new.model.injections["source"].embed.proj.weight,
        old["model.injections.source.embed.proj.weight"],
    )
    assert not new.model.injections["reference"].embed.proj.weight.any()  # new: zero


def test_init_from_takes_adapters_too(tmp_path: Path, shards: Path) -> None:
    trainer, _ = fit(tmp_path, shards, 2, finetune=LORA)
    new = built(init_from=str(tmp_path / "end.ckpt"), finetune=LORA)
    for key, tensor in trainer.lightning_module.trained_state().items():
        assert torch.equal(tensor, new.trained_state()[key])


def test_init_from_refuses_what_has_no_place(tmp_path: Path, shards: Path) -> None:
    fit(tmp_path, shards, 1)
    with pytest.raises(WeightsError, match=r"model.init_from: .*unexpected: .*injections.source"):
        built(init_from=str(tmp_path / "end.ckpt"), source=None)
    with pytest.raises(WeightsError, match="no such checkpoint"):
        built(init_from=str(tmp_path / "none.ckpt"))
    for name, message in {"bad.ckpt": "not a readable", "bad.safetensors": "cut short"}.items():
        (tmp_path / name).write_text("no weights")
        with pytest.raises(WeightsError, match=rf"{name}: .*{message}"):
            built(init_from=str(tmp_path / name))


def test_parts_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match="model.instruction: needs model.context"):
        make_system(context=None)
    wide = {**BACKBONE, "in_channels": 8}
    with pytest.raises(ConfigError, match="4 latent channels, but model.backbone takes 8"):
        built(backbone=lambda: WanDiT(**wide))


@pytest.fixture
def stepping(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A system that believes to be at step 0 of rank 0, and records what its model is given."""

    def prepare(rank: int = 0, step: int = 0, **changes: Any) -> Any:
        system = shake(built(**changes))
        dealt = {"rank": rank, "num_replicas": 2}
        fake = SimpleNamespace(accumulate_grad_batches=2, distributed_sampler_kwargs=dealt)
        monkeypatch.setattr(type(system), "trainer", fake)
        monkeypatch.setattr(type(system), "global_step", step)
        monkeypatch.setattr(system, "log", lambda *args, **kwargs: None)
        system.seen = []
        inner = system.model.forward

        def forward(x_t: Tensor, sigma: Tensor, conditions: Any) -> Tensor:
            system.seen.append((x_t, sigma, conditions))
            return inner(x_t, sigma, conditions)

        monkeypatch.setattr(system.model, "forward", forward)
        return system

    return prepare


def test_the_loss_is_that_of_the_velocity(stepping: Any) -> None:
    system, batch = stepping(dropout=ConditionDropout(instruction=0.0)), make_batch()
    loss = system.training_step(batch, 0)
    x_t, sigma, conditions = system.seen[0]
    clean = system.codec.encode(batch.videos["target"])
    noise = (x_t - (1 - sigma.view(-1, 1, 1, 1, 1)) * clean) / sigma.view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(interpolate(clean, noise, sigma), x_t)
    predicted = system.model(x_t, sigma, conditions)
    torch.testing.assert_close(loss, (predicted - velocity(clean, noise)).square().mean())


def test_noise_depends_on_step_rank_and_micro_batch_alone(stepping: Any) -> None:
    def first_input(rank: int, step: int, batch_idx: int) -> Tensor:
        system = stepping(rank, step)
        system.training_step(make_batch(), batch_idx)
        return system.seen[0][0]

    base = first_input(0, 3, 0)
    assert torch.equal(base, first_input(0, 3, 0))
    assert torch.equal(base, first_input(0, 3, 2))  # the same place in an accumulation of two
    for other in ((1, 3, 0), (0, 4, 0), (0, 3, 1)):
        assert not torch.equal(base, first_input(*other))


def test_ranks_agree_on_conditions_dropped_for_a_batch(stepping: Any) -> None:
    def present(rank: int, step: int) -> bool:
        system = stepping(rank, step, dropout=ConditionDropout(source=0.5))
        system.training_step(make_batch(), 0)
        return "source" in system.seen[0][2]

    steps = [present(0, step) for step in range(8)]
    assert set(steps) == {True, False}
    assert steps == [present(1, step) for step in range(8)]


def test_a_dropped_instruction_becomes_the_empty_one(stepping: Any) -> None:
    system = stepping(dropout=ConditionDropout(instruction=1.0))
    system.training_step(make_batch(), 0)
    torch.testing.assert_close(system.seen[0][2].context.tokens, system.context.null(2).tokens)


def test_a_mask_on_the_source_goes_with_it(stepping: Any) -> None:
    system = stepping(
        mask=lambda spec: AddToTokens(spec, segment="source"),
        dropout=ConditionDropout(source=1.0),
    )
    batch = make_batch()
    batch = replace(batch, videos={**batch.videos, "mask": batch.videos["source"]})
    system.training_step(batch, 0)
    assert set(system.seen[0][2].latents) == set()


def test_the_context_encoder_does_not_see_what_is_dropped(
    stepping: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = stepping(dropout=ConditionDropout(source=1.0))
    shown: list[set[str]] = []
    features = system.context.features

    def watched(instruction: Any, images: Any) -> Any:
        shown.append(set(images))
        return features(instruction, images)

    monkeypatch.setattr(system.context, "features", watched)
    system.training_step(make_batch(), 0)
    assert shown[0] == set()
    assert system.stored_features_hold
    system.context.reads_images = ("source",)
    assert not system.stored_features_hold


def test_references_are_latent_frames_side_by_side() -> None:
    system = built(reference=lambda spec: AppendTokens(spec, time="after"))
    batch = make_batch(reference=True)
    found = system.conditions(batch)["reference"]
    assert found.shape == (2, 4, 2, 4, 6)
    alone = system.codec.encode(batch.reference[1:2, 0].unsqueeze(2))
    torch.testing.assert_close(found[1:2, :, 0:1], alone)


def test_cached_latents_are_not_encoded_again() -> None:
    system, batch = built(), make_batch()
    latents = torch.randn(2, 4, 2, 4, 6)
    cached = replace(batch, latents={"source": latents})
    assert torch.equal(system.conditions(cached)["source"], latents)


def test_a_size_that_makes_no_whole_patches_is_named(stepping: Any) -> None:
    system, batch = stepping(), make_batch()
    odd = replace(batch, videos={name: v[..., :20] for name, v in batch.videos.items()})
    with pytest.raises(DataError, match="key-0: 16x20 .* width of 8"):
        system.training_step(odd, 0)


def test_a_batch_without_a_target_is_named(stepping: Any) -> None:
    batch = make_batch()
    batch = replace(batch, videos={"source": batch.videos["source"]})
    with pytest.raises(DataError, match="key-0: no target"):
        stepping().training_step(batch, 0)


def test_sampling_repeats_and_does_not_depend_on_the_batch() -> None:
    system, batch = shake(built()), make_batch()
    conditions = system.conditions(batch)
    shape = (2, 4, 2, 4, 6)
    both = system.sample(conditions, shape, seed=[5, 6])
    assert torch.equal(both, system.sample(conditions, shape, seed=5))  # 5 and 5 + 1
    second = make_batch()
    second = replace(
        second,
        instruction=second.instruction[1:],
        keys=second.keys[1:],
        videos={name: video[1:] for name, video in second.videos.items()},
    )
    alone = system.sample(system.conditions(second), (1, *shape[1:]), seed=6)
    torch.testing.assert_close(alone, both[1:])
    assert not torch.allclose(both, system.sample(conditions, shape, seed=7))


def test_guidance_runs_both_branches_in_one_batch() -> None:
    system = shake(built())
    conditions = system.conditions(make_batch())
    x_t, sigma = torch.randn(2, 4, 2, 4, 6), torch.full((2,), 0.7)
    sizes = []
    system.model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    with torch.no_grad():
        got = system._velocity(conditions, 3.0)(x_t, sigma)
        plain = system._velocity(conditions, 1.0)(x_t, sigma)
        null = replace(conditions, context=system.context.null(2))
        empty = system._velocity(null, 1.0)(x_t, sigma)
    assert sizes == [4, 2, 2]
    assert not torch.allclose(plain, empty)
    torch.testing.assert_close(got, empty + 3.0 * (plain - empty))


def test_the_number_of_steps_can_be_asked_for() -> None:
    system = shake(built())
    told: list[tuple[int, int]] = []
    conditions = system.conditions(make_batch())
    system.sample(
        conditions, (2, 4, 2, 4, 6), seed=0, steps=3, progress=lambda i, n: told.append((i, n))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert system.sampler.steps == 2


def test_edits_have_the_size_of_the_source() -> None:
    system, batch = shake(built(guidance=2.0)), make_batch()
    edit = system.predict_step(batch, 0)["edit"]
    assert edit.shape == batch.videos["source"].shape
    assert edit.min() >= -1
    assert edit.max() <= 1


def test_validation_is_the_same_each_time(stepping: Any) -> None:
    system = stepping()
    logged: list[dict[str, float]] = []
    for _ in range(2):
        values: dict[str, float] = {}
        system.log = lambda name, value, values=values, **kwargs: values.update(
            {name: float(value)}
        )
        with torch.no_grad():
            system.validation_step(make_batch(), 0)
        logged.append(values)
    assert logged[0] == logged[1]
    levels = [value for name, value in logged[0].items() if "_at_" in name]
    assert len(levels) == 5
    assert logged[0]["val/loss"] == pytest.approx(sum(levels) / 5)


def test_shapes_alone_take_no_memory() -> None:
    system = make_system(finetune=LORA)
    system.build(meta=True)
    assert all(p.is_meta for p in system.parameters())
    assert isinstance(system.model.injections["instruction"], CrossAttend)


def test_a_slot_may_read_the_pixels_of_its_condition():
    system = shake(built(mask=PooledMask))
    assert system.reads_pixels() == ("mask",)
    batch, mask = make_batch(), torch.rand(2, 3, 5, 16, 24) * 2 - 1
    masked = replace(batch, videos={**batch.videos, "mask": mask})
    given = system.conditions(masked)
    assert given["mask"] is mask
    assert given["source"].shape[1] == 4
    x_t, sigma = torch.randn_like(given["source"]), torch.tensor([0.3, 0.8])
    assert not torch.allclose(system(x_t, sigma, given), system(x_t, sigma, given.without("mask")))
    assert "mask" not in system.conditions(batch)
    cached = replace(batch, latents={"mask": torch.zeros(2, 4, 2, 4, 6)})
    with pytest.raises(DataError, match="key-0: model.mask reads pixels, .* only cached latents"):
        system.conditions(cached)


def test_an_instruction_in_the_sequence_is_guided() -> None:
    def unified() -> WanDiT:
        return WanDiT(**BACKBONE, block=UnifiedBlock)

    system = shake(built(backbone=unified, instruction=AppendContext))
    batch = make_batch()
    edits = [system.edit(batch, guidance=scale) for scale in (1.0, 3.0)]
    assert edits[0].shape == (2, 3, 5, 16, 24)
    assert not torch.allclose(*edits), "guidance did nothing"
    other = replace(batch, instruction=("turn it upside down", "make it number 1"))
    assert not torch.allclose(system.edit(other)[0], edits[0][0]), "the words did nothing"


def test_training_with_the_instruction_in_the_sequence(shards: Path, tmp_path: Path) -> None:
    def unified() -> WanDiT:
        return WanDiT(**BACKBONE, block=UnifiedBlock)

    _, losses = fit(tmp_path, shards, 2, backbone=unified, instruction=AppendContext)
    assert len(losses) == 2
    assert all(loss == loss for loss in losses)


def test_a_context_of_more_streams_than_branches_is_refused() -> None:
    class Two(UMT5):
        streams = ("image",)

    with pytest.raises(ConfigError, match=r"block: has no branch for .* 'image'.*DualCrossBlock"):
        built(context=lambda spec: Two(spec, **CONTEXT))
    dual = lambda: WanDiT(**BACKBONE, block=DualCrossBlock)  # noqa: E731
    assert built(context=lambda spec: Two(spec, **CONTEXT), backbone=dual).model is not None
