"""What ranks run in the tests of strategies: one training, whose steps depend on samples alone."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from tests.tiny import BACKBONE, CODEC, CONTEXT
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from vedit.backbones.wan import WanDiT
from vedit.batch import EditBatch
from vedit.codecs.wan_vae import WanVAE
from vedit.compilation import CompileBlocks
from vedit.conditioning.append import AppendTokens
from vedit.conditioning.cross import CrossAttend
from vedit.context.umt5 import UMT5
from vedit.data.module import EditData
from vedit.distributed.fsdp2 import FSDP2
from vedit.errors import ConfigError
from vedit.finetune.frozen import Frozen
from vedit.finetune.full import Full
from vedit.finetune.lora import LoRA
from vedit.finetune.plan import FinetunePlan
from vedit.flow.draws import noise_of, seed_of
from vedit.flow.noise_levels import LogitNormal
from vedit.flow.path import interpolate, velocity
from vedit.flow.sampler import Euler
from vedit.flow.weighting import NoWeighting
from vedit.optim import MuonAdamW
from vedit.system import EditSystem

PLANS = {
    "full": lambda: FinetunePlan(connector=Full()),
    "connector": lambda: FinetunePlan(backbone=Frozen(), injections=Frozen(), connector=Full()),
    "lora": lambda: FinetunePlan(backbone=LoRA(rank=2), connector=Full()),
}
OPTIMIZERS: dict[str, Any] = {
    "muon": partial(MuonAdamW, lr=1e-2),
    "fused": partial(torch.optim.AdamW, lr=1e-2, fused=True),
}
GLOBAL_BATCH = 4


class BySample(EditSystem):
    """Draws noise by the key of a sample, so that it does not matter which rank has it."""

    def training_step(self, batch: EditBatch, batch_idx: int) -> Tensor:
        """The loss at noise levels that follow from the keys."""
        clean = self._target(batch)
        noise = torch.cat([noise_of(clean.shape[1:], seed_of("train", k)) for k in batch.keys])
        sigma = torch.tensor([(seed_of("level", k) % 89 + 5) / 100 for k in batch.keys])
        predicted = self(interpolate(clean, noise, sigma), sigma, self.conditions(batch))
        return (predicted.float() - velocity(clean, noise)).square().mean()


def system(
    finetune: str, optimizer: Any = None, compiled: bool = False, **backbone: Any
) -> BySample:
    return BySample(
        backbone=lambda: WanDiT(**{**BACKBONE, **backbone}),
        codec=lambda: WanVAE(**CODEC),
        context=lambda spec: UMT5(spec, **CONTEXT),
        instruction=CrossAttend,
        source=AppendTokens,
        noise_levels=LogitNormal(),
        weighting=NoWeighting(),
        sampler=Euler(steps=2),
        finetune=PLANS[finetune](),
        optimizer=optimizer or (lambda parameters: torch.optim.AdamW(parameters, lr=1e-2)),
        compile=CompileBlocks(backend="eager") if compiled else None,
    )


class Watch(Callback):
    """Keeps the samples of each batch."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, ...]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        self.keys.append(tuple(args[1].keys))


def fit(
    shards: Path,
    *,
    strategy: dict[str, Any] | None,
    finetune: str = "full",
    steps: int = 2,
    save: Path | None = None,
    resume: Path | None = None,
    rate: float | None = None,
    optimizer: str | None = None,
    compiled: bool = False,
    **arguments: Any,
) -> dict[str, Any]:
    """Train, on this rank; what trains is returned whole, and the samples of every step."""
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*srun. command is available.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    torch.manual_seed(0)
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    chosen_optimizer = None if optimizer is None else OPTIMIZERS[optimizer]
    if rate is not None:
        chosen_optimizer = partial(torch.optim.SGD, lr=rate)
    trained = system(finetune, chosen_optimizer, compiled)
    chosen = "auto" if strategy is None else FSDP2(**strategy)
    share = strategy.get("context", 1) if strategy else 1
    watch = Watch()
    trainer = Trainer(
        accelerator="cpu",
        devices=world,
        strategy=chosen,
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
        use_distributed_sampler=False,
        **{"gradient_clip_val": 0.05, **arguments},
    )
    size = GLOBAL_BATCH * share // (world * arguments.get("accumulate_grad_batches", 1))
    data = EditData(train=str(shards), batch_size=size, seed=3)
    trainer.fit(trained, data, ckpt_path=None if resume is None else str(resume))
    if save is not None:
        trainer.save_checkpoint(save)
    state = {name: whole(tensor) for name, tensor in trained.trained_state().items()}
    kinds = {name: type(p).__name__ for name, p in trained.model.named_parameters()}
    return {"state": state, "keys": watch.keys, "kinds": kinds}


class Unread(LightningDataModule):
    """Data that nobody may ask for."""

    def train_dataloader(self) -> Any:
        raise AssertionError("data was asked for")


def refusal(heads: int, context: int) -> tuple[str, set[str]]:
    """What is said of so many heads for so many ranks, and how weights lie then."""
    refused = system("full", num_attention_heads=heads)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    strategy = FSDP2(context=context)
    trainer = Trainer(accelerator="cpu", devices=context, strategy=strategy, max_steps=1, **quiet)
    try:
        trainer.fit(refused, Unread())
    except ConfigError as error:
        return str(error), {type(p).__name__ for p in refused.parameters()}
    return "", set()


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()
