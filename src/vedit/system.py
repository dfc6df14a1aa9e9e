"""`EditSystem`: an editor, trained and sampled from.

`vedit.assembly` builds its parts, encodes with them, and restores what trains of them. Which class
plays each part is the configuration's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vedit.assembly import Assembly
from vedit.averaging import Averaging
from vedit.backbones.base import Backbone, BackboneSpec
from vedit.batch import Batch, Conditions, EditBatch, UnlikeBatch
from vedit.codecs.base import Codec, check_patches
from vedit.compilation import CompileBlocks
from vedit.conditioning.base import Injection
from vedit.conditioning.dropout import ConditionDropout
from vedit.conditioning.null import replace_rows, twice
from vedit.context.base import ContextEncoder
from vedit.errors import ConfigError, DataError
from vedit.finetune.plan import FinetunePlan
from vedit.flow.draws import noise_of, seed_of
from vedit.flow.guidance import guided
from vedit.flow.noise_levels import NoiseLevels
from vedit.flow.noised import Noised
from vedit.flow.path import interpolate, velocity
from vedit.flow.sampler import Sampler
from vedit.flow.weighting import Weighting
from vedit.idle import Idle
from vedit.parameter_groups import ParameterGroup, grouped, keep_ratios
from vedit.transfer import sent

VALIDATION_SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)


class EditSystem(Assembly):
    """An editor: backbone, codec, context encoder, injections, and how they are trained.

    Args:
        backbone: the diffusion transformer.
        codec: pixels to latents and back.
        context: encodes the instruction; null for a model without one.
        instruction: how the encoded instruction enters the sequence.
        source: how the source video enters; null leaves it out, as for each of these slots.
        mask: how a mask video enters.
        reference: how reference images enter.
        extra: further conditions by name, such as depth; the name is that of the batch's video.
        noise_levels: distribution of the noise level in training.
        weighting: weight of the loss at each noise level.
        sampler: integrates the velocity from noise to a video.
        guidance: scale of classifier-free guidance on the instruction; 1 is off.
        dropout: probability with which each condition is left out in training.
        finetune: what trains, and how.
        optimizer: makes the optimizer from the parameters that train.
        parameter_groups: parameters with a learning rate or weight decay of their own, by patterns
            of names; the first that matches counts.
        lr_scheduler: makes the learning-rate schedule, stepped once an optimizer step.
        averaging: keeps a moving average of what trains; null keeps none.
        init_from: a checkpoint, a run's folder or a folder of safetensors to start from.
        init_without: patterns of its keys that are left out, such as "model.injections.mask.*".
        compile: compiles the backbone's blocks; null runs them as they are.
        seed: start of every random stream of training.
        idle: where codec and frozen encoders are between uses in training: "keep" them on the
            device, or "offload" them to the host's memory.
    """

    def __init__(
        self,
        *,
        backbone: Callable[[], Backbone],
        codec: Callable[[], Codec],
        context: Callable[[BackboneSpec], ContextEncoder] | None = None,
        instruction: Callable[[BackboneSpec], Injection] | None = None,
        source: Callable[[BackboneSpec], Injection] | None = None,
        mask: Callable[[BackboneSpec], Injection] | None = None,
        reference: Callable[[BackboneSpec], Injection] | None = None,
        extra: dict[str, Callable[[BackboneSpec], Injection]] | None = None,
        noise_levels: NoiseLevels,
        weighting: Weighting,
        sampler: Sampler,
        guidance: float = 1.0,
        dropout: ConditionDropout = ConditionDropout(),  # noqa: B008 (frozen)
        finetune: FinetunePlan = FinetunePlan(),  # noqa: B008 (frozen)
        optimizer: Callable[[Iterable], Optimizer],
        parameter_groups: list[ParameterGroup] | None = None,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        averaging: Averaging | None = None,
        init_from: str | None = None,
        init_without: list[str] | None = None,
        compile: CompileBlocks | None = None,
        seed: int = 0,
        idle: Idle = "keep",
    ) -> None:
        slots = {"instruction": instruction, "source": source, "mask": mask}
        slots |= {"reference": reference, **(extra or {})}
        injections = {name: make for name, make in slots.items() if make is not None}
        super().__init__(
            backbone, codec, context, injections, finetune, init_from, init_without or (), compile,
            seed, idle,
        )  # fmt: skip
        self.noise_levels, self.weighting, self.sampler = noise_levels, weighting, sampler
        self.guidance, self.dropout = guidance, dropout
        self.make_optimizer, self.make_lr_scheduler = optimizer, lr_scheduler
        self.parameter_groups, self.averaging = tuple(parameter_groups or ()), averaging

    def configure_optimizers(self) -> Any:
        """The configured optimizer over what trains, its schedule stepped at every step."""
        self.start_average()
        trainable = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if not trainable:
            raise ConfigError("model.finetune: nothing trains; choose Full or LoRA for some part")
        groups: list[Any] = list(trainable.values())
        if self.parameter_groups:
            frozen = dict(self.named_parameters()).keys() - trainable
            groups = grouped(trainable, self.parameter_groups, frozen)
        optimizer = self.make_optimizer(groups)
        if self.make_lr_scheduler is None:
            return optimizer
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        scheduler = self.make_lr_scheduler(optimizer)
        keep_ratios(optimizer, rates)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # --- one batch ----------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Weighted flow-matching loss at one noise level per sample."""
        mine, shared = self._generators(batch_idx)
        dropped = self._dropped(shared)
        if isinstance(batch, UnlikeBatch):
            parts = [self._noised(part.without(*dropped), mine) for part in batch.parts]
            sigma = torch.cat([part.sigma for part in parts])
            found = self([p.x_t for p in parts], sigma, [p.conditions for p in parts])
            error = torch.cat([part.error(v) for part, v in zip(parts, found, strict=True)])
        else:
            whole = self._noised(batch.without(*dropped), mine)
            sigma = whole.sigma
            error = whole.error(self(whole.x_t, sigma, whole.conditions))
        loss = (self.weighting(sigma) * error).mean()
        self.log("train/loss", loss, batch_size=len(batch))
        return loss

    def _noised(self, batch: EditBatch, mine: torch.Generator) -> Noised:
        clean = self._target(batch)
        sigma = sent(self.noise_levels.sample(len(batch), mine), clean.device).to(clean)
        noise = sent(torch.randn(clean.shape, generator=mine), clean.device).to(clean)
        conditions = self._with_empty_instructions(self.conditions(batch), mine)
        return Noised(clean, noise, sigma, conditions)

    def forward(
        self,
        x_t: Tensor | Sequence[Tensor],
        sigma: Tensor,
        conditions: Conditions | Sequence[Conditions],
    ) -> Any:
        """Velocity at `x_t` and `sigma`, or those of several samples, see `EditModel`."""
        assert self.model is not None
        return self.model(x_t, sigma, conditions)

    def validation_step(self, batch: EditBatch, batch_idx: int) -> None:
        """The loss at fixed noise levels, with noise that depends on the sample's key alone."""
        clean = self._target(batch)
        noise = torch.cat([noise_of(clean.shape[1:], seed_of("val", key)) for key in batch.keys])
        noise = noise.to(clean)
        conditions = self.conditions(batch)
        losses = []
        for level in VALIDATION_SIGMAS:
            sigma = torch.full((len(batch),), level, device=clean.device)
            predicted = self(interpolate(clean, noise, sigma), sigma, conditions)
            losses.append((predicted.float() - velocity(clean, noise)).square().mean())
            self._log_validation(f"val/loss_at_{level}", losses[-1], batch)
        self._log_validation("val/loss", torch.stack(losses).mean(), batch)

    def test_step(self, batch: EditBatch, batch_idx: int) -> dict[str, Tensor]:
        """Edit the batch; callbacks measure the result."""
        return self.predict_step(batch, batch_idx)

    def predict_step(self, batch: EditBatch, batch_idx: int) -> dict[str, Tensor]:
        """Edit the batch: `{"edit": (B, 3, F, H, W)}`."""
        return {"edit": self.edit(batch)}

    def edit(
        self, batch: EditBatch, steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        """The edited videos (B, 3, F, H, W) in [-1, 1]; a key gives the same one in any batch."""
        assert self.codec is not None
        conditions = self.conditions(batch)
        seeds = [seed_of(self.seed, key) for key in batch.keys]
        shape = self.latent_shape(batch)
        latents = self.sample(conditions, shape, seed=seeds, steps=steps, guidance=guidance)
        return self.codec.decode(latents).float().clamp(-1, 1)

    @torch.no_grad()
    def sample(
        self,
        conditions: Conditions,
        shape: Sequence[int],
        *,
        seed: int | Sequence[int],
        steps: int | None = None,
        guidance: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Draw latents from the model.

        Args:
            conditions: of the whole batch.
            shape: (B, C, t, h, w).
            seed: one for each sample, or one from which sample i takes seed + i.
            steps: steps of the sampler; None takes the configured number.
            guidance: scale on the instruction; None takes the configured one, 1 runs one branch.
                The visual conditions are the same in both branches.
            progress: called with (step, steps) after each step.

        Returns:
            Latents (B, C, t, h, w). The noise is drawn on the CPU, sample by sample, so that it
            depends neither on the device nor on the rest of the batch.
        """
        seeds = [seed + i for i in range(shape[0])] if isinstance(seed, int) else list(seed)
        noise = torch.cat([noise_of(shape[1:], s) for s in seeds]).to(self.device)
        sampler = self.sampler if steps is None else self.sampler.with_steps(steps)
        scale = self.guidance if guidance is None else guidance
        return sampler.sample(self._velocity(conditions, scale), noise, progress)

    # --- helpers ------------------------------------------------------------------------------

    def _velocity(self, conditions: Conditions, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
        if scale == 1.0 or conditions.context is None:
            return lambda x_t, sigma: self(x_t, sigma, conditions).float()
        assert self.context is not None
        batch = conditions.context.tokens.shape[0]
        both = twice(conditions, self.context.null(batch))

        return guided(lambda x_t, sigma: self(x_t, sigma, both).float(), scale)

    def _target(self, batch: EditBatch) -> Tensor:
        clean = self.latents(batch, "target")
        if clean is None:
            raise DataError(f"{batch.keys[0]}: no target video in this batch to train on")
        assert self.model is not None
        assert self.codec is not None
        patch, factor = self.model.backbone.spec.patch, self.codec.spatial_factor
        check_patches(clean.shape[2:], patch, factor, batch.keys[0])
        return clean

    def _generators(self, batch_idx: int) -> tuple[torch.Generator, torch.Generator]:
        """Streams that depend on the step alone: one for this rank, one that all ranks share."""
        micro = batch_idx % self.trainer.accumulate_grad_batches
        shared = seed_of(self.seed, self.global_step, micro)
        mine = seed_of(self.seed, self.global_step, micro, "rank", self.data_rank)
        return torch.Generator().manual_seed(mine), torch.Generator().manual_seed(shared)

    def _dropped(self, shared: torch.Generator) -> set[str]:
        """The conditions that this step drops, also for the context encoder."""
        names = tuple(name for name in self.make_injections if name != "instruction")
        return self._with_dependents(self.dropout.dropped(names, shared))

    def _with_empty_instructions(self, given: Conditions, mine: torch.Generator) -> Conditions:
        """The conditions with the instruction of some samples emptied."""
        if given.context is None or self.dropout.instruction == 0.0:
            return given
        assert self.context is not None
        batch = given.context.tokens.shape[0]
        rows = torch.rand(batch, generator=mine) < self.dropout.instruction
        if not any(rows.tolist()):
            return given
        context = replace_rows(given.context, self.context.null(batch), rows)
        return Conditions(given.latents, context)

    @property
    def stored_features_hold(self) -> bool:
        """Whether features that were stored once are those of every training step."""
        if self.context is None:
            return True
        drops = any(self.dropout.probability(name) for name in self.context.reads_images)
        return self.context.stored_features_hold and not drops

    def _with_dependents(self, dropped: tuple[str, ...]) -> set[str]:
        """What is added to the tokens of a dropped condition goes with it."""
        assert self.model is not None
        segments = {n: getattr(i, "segment", None) for n, i in self.model.injections.items()}
        return {*dropped, *(name for name, segment in segments.items() if segment in dropped)}

    def _log_validation(self, name: str, value: Tensor, batch: EditBatch) -> None:
        self.log(name, value, batch_size=len(batch), sync_dist=True)
