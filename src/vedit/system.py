"""`EditSystem`: the parts of an editor, composed, trained and sampled from.

Only the constructor knows the parts; which class plays each of them is the configuration's choice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vedit import __version__
from vedit.backbones.base import Backbone, BackboneSpec
from vedit.batch import Conditions, EditBatch
from vedit.codecs.base import Codec
from vedit.conditioning.base import Injection
from vedit.conditioning.dropout import ConditionDropout
from vedit.conditioning.null import replace_rows, twice
from vedit.context.base import ContextEncoder, check_streams
from vedit.errors import ConfigError, DataError
from vedit.finetune.base import Finetune
from vedit.finetune.plan import FinetunePlan
from vedit.finetune.trained import restore, start_from, trained_state
from vedit.flow.draws import noise_of, seed_of
from vedit.flow.guidance import guided
from vedit.flow.noise_levels import NoiseLevels
from vedit.flow.path import interpolate, velocity
from vedit.flow.sampler import Sampler
from vedit.flow.weighting import Weighting
from vedit.model import EditModel, materialise

VALIDATION_SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)


class EditSystem(LightningModule):
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
        lr_scheduler: makes the learning-rate schedule, stepped once an optimizer step.
        init_from: a checkpoint, a run's folder or a folder of safetensors to start from.
        seed: start of every random stream of training.
    """

    def __init__(
        self,
        *,
        backbone: Callable[[], Backbone],
        codec: Callable[[], Codec],
        noise_levels: NoiseLevels,
        weighting: Weighting,
        sampler: Sampler,
        optimizer: Callable[[Iterable], Optimizer],
        context: Callable[[BackboneSpec], ContextEncoder] | None = None,
        instruction: Callable[[BackboneSpec], Injection] | None = None,
        source: Callable[[BackboneSpec], Injection] | None = None,
        mask: Callable[[BackboneSpec], Injection] | None = None,
        reference: Callable[[BackboneSpec], Injection] | None = None,
        extra: dict[str, Callable[[BackboneSpec], Injection]] | None = None,
        guidance: float = 1.0,
        dropout: ConditionDropout = ConditionDropout(),  # noqa: B008 (frozen)
        finetune: FinetunePlan = FinetunePlan(),  # noqa: B008 (frozen)
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.make_backbone, self.make_codec, self.make_context = backbone, codec, context
        slots = {"instruction": instruction, "source": source, "mask": mask}
        slots |= {"reference": reference, **(extra or {})}
        self.make_injections = {name: make for name, make in slots.items() if make is not None}
        if "instruction" not in self.make_injections:
            self.make_context = None  # nobody would read it
        elif context is None:
            raise ConfigError("model.instruction: needs model.context, which is null")
        self.noise_levels, self.weighting, self.sampler = noise_levels, weighting, sampler
        self.guidance, self.dropout, self.finetune = guidance, dropout, finetune
        self.make_optimizer, self.make_lr_scheduler = optimizer, lr_scheduler
        self.init_from, self.seed = init_from, seed
        self.config: dict[str, Any] | None = None
        """The resolved configuration, stored in every checkpoint."""
        self.strict_loading = False  # a checkpoint holds what trains; on_load_checkpoint is strict
        self.model: EditModel | None = None
        self.codec: Codec | None = None
        self.context: ContextEncoder | None = None

    # --- building -----------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Build the parts with their weights; Lightning calls it once the device is known."""
        if self.model is None:
            self.build()

    def build(self, meta: bool = False) -> None:
        """Build, load strictly, start from `init_from`, then apply the finetuning plan.

        Args:
            meta: shapes only: no memory, no weights, no `init_from`.

        Raises:
            WeightsError: if weights do not fit.
            ConfigError: if two parts do not fit each other.
        """
        planned = _without_weights if meta else _unchanged
        with torch.device("meta") if meta else nullcontext():
            self.model = EditModel.build(planned(self.make_backbone), self.make_injections)
            spec = self.model.backbone.spec
            self.codec = materialise(planned(self.make_codec))
            if self.make_context is not None:
                self.context = materialise(planned(partial(self.make_context, spec)))
            self._check_fit(spec)
            self.codec.requires_grad_(False).eval()
            init = None if meta else self.init_from
            rest = {} if init is None else start_from(self._parts(), init)
            for name, (part, finetune) in self._parts().items():
                self._replace_part(name, finetune.apply(part))
        if rest:
            restore(self._parts(), rest, f"model.init_from: {init}", complete=False)

    def _check_fit(self, spec: BackboneSpec) -> None:
        assert self.codec is not None
        check_streams(spec, getattr(self.context, "streams", ()))
        if self.codec.latent_channels != spec.latent_channels:
            raise ConfigError(
                f"model.codec: makes {self.codec.latent_channels} latent channels, but "
                f"model.backbone takes {spec.latent_channels}"
            )

    def _parts(self) -> dict[str, tuple[nn.Module, Finetune]]:
        """The parts a finetuning plan speaks of, by the prefix of their keys."""
        assert self.model is not None, "configure_model() comes first"
        plan = self.finetune
        parts = {
            "model.backbone": (self.model.backbone, plan.backbone),
            "model.injections": (self.model.injections, plan.injections),
        }
        if self.context is not None:
            parts["context.tower"] = (self.context.tower, plan.tower)
            parts["context.connector"] = (self.context.connector, plan.connector)
        return parts

    def _replace_part(self, name: str, part: nn.Module) -> None:
        owner, _, attribute = name.rpartition(".")
        setattr(self.get_submodule(owner), attribute, part)

    # --- weights that train -------------------------------------------------------------------

    def trained_state(self) -> dict[str, Tensor]:
        """What trains, and nothing else, by the keys of a checkpoint."""
        return trained_state(self._parts())

    def load_trained(self, state: Mapping[str, Tensor], where: str) -> None:
        """Load what `trained_state` gave, strictly.

        Args:
            state: the tensors, by the same keys.
            where: the file, for messages.

        Raises:
            WeightsError: if a key is missing or unexpected, or a shape differs.
        """
        restore(self._parts(), state, where)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what trains, and add the configuration and the version."""
        checkpoint["state_dict"] = trained_state(self._parts(), checkpoint["state_dict"])
        checkpoint["config"] = self.config
        checkpoint["vedit_version"] = __version__

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load what trains, strictly.

        Raises:
            WeightsError: if the checkpoint holds anything else, or less.
        """
        self.load_trained(checkpoint["state_dict"], "ckpt_path")

    def train(self, mode: bool = True) -> EditSystem:
        """Switch to training; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in (self.codec, *(part for part, _ in self._parts_or_none())):
            if module is not None and not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self

    def _parts_or_none(self) -> list[tuple[nn.Module, Finetune]]:
        return list(self._parts().values()) if self.model is not None else []

    def configure_optimizers(self) -> Any:
        """The configured optimizer over what trains, its schedule stepped at every step."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        if not trainable:
            raise ConfigError("model.finetune: nothing trains; choose Full or LoRA for some part")
        optimizer = self.make_optimizer(trainable)
        if self.make_lr_scheduler is None:
            return optimizer
        scheduler = self.make_lr_scheduler(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # --- one batch ----------------------------------------------------------------------------

    def conditions(self, batch: EditBatch) -> Conditions:
        """Encode what the configured slots read and the cache does not hold."""
        latents = {}
        for name in self.make_injections:
            if name != "instruction" and (found := self._signal(batch, name)) is not None:
                latents[name] = found
        if "instruction" not in self.make_injections:
            return Conditions(latents)
        images = {k: v for k, v in batch.videos.items() if k != "target"}
        if batch.reference is not None:
            images["reference"] = batch.reference
        assert self.context is not None
        return Conditions(latents, self.context(batch.instruction, images, batch.features))

    def reads_pixels(self) -> tuple[str, ...]:
        """Slots whose injection is given the pixels of its condition instead of latents."""
        assert self.model is not None, "configure_model() comes first"
        slots = self.model.injections.items()
        return tuple(name for name, injection in slots if injection.reads == "pixels")

    def _signal(self, batch: EditBatch, name: str) -> Tensor | None:
        """What the injection of a slot reads; None if the batch has no such condition."""
        if name not in self.reads_pixels():
            return self.latents(batch, name)
        if name in batch.latents and name not in batch.videos:
            raise DataError(
                f"{batch.keys[0]}: model.{name} reads pixels, but the batch holds only cached "
                f"latents of the {name}; set data.latents to never"
            )
        return batch.videos.get(name)

    def latents(self, batch: EditBatch, name: str) -> Tensor | None:
        """Latents (B, C, t, h, w) of one video or of the references; None if the batch has none."""
        if name in batch.latents:
            return batch.latents[name].float()
        assert self.codec is not None
        if name == "reference" and batch.reference is not None:
            samples, count = batch.reference.shape[:2]
            frames = batch.reference.flatten(0, 1).unsqueeze(2)
            encoded = self.codec.encode(frames)
            return encoded.unflatten(0, (samples, count)).squeeze(3).transpose(1, 2).float()
        if name in batch.videos:
            return self.codec.encode(batch.videos[name]).float()
        return None

    def training_step(self, batch: EditBatch, batch_idx: int) -> Tensor:
        """Weighted flow-matching loss at one noise level per sample."""
        clean = self._target(batch)
        mine, shared = self._generators(batch_idx)
        sigma = self.noise_levels.sample(len(batch), mine).to(clean)
        noise = torch.randn(clean.shape, generator=mine).to(clean)
        conditions = self._dropped(self.conditions(batch), mine, shared)
        predicted = self(interpolate(clean, noise, sigma), sigma, conditions)
        error = (predicted.float() - velocity(clean, noise)).square().mean(dim=(1, 2, 3, 4))
        loss = (self.weighting(sigma) * error).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def forward(self, x_t: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """Velocity (B, C, t, h, w) at `x_t` (B, C, t, h, w) and `sigma` (B,)."""
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
        self._log_validation("val/loss", torch.stack(losses).mean(), batch, prog_bar=True)

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
        shape = self._latent_shape(batch)
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
        sampler = self.sampler if steps is None else _with_steps(self.sampler, steps)
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
        self._check_patches(clean, batch)
        return clean

    def _check_patches(self, latents: Tensor, batch: EditBatch) -> None:
        """Refuse a size that the backbone cannot cut into whole patches.

        Raises:
            DataError: with the multiples that height and width must be of.
        """
        assert self.codec is not None
        assert self.model is not None
        patch, factor = self.model.backbone.spec.patch, self.codec.spatial_factor
        if any(size % p for size, p in zip(latents.shape[2:], patch, strict=True)):
            height, width = (size * factor for size in latents.shape[3:])
            raise DataError(
                f"{batch.keys[0]}: {height}x{width} (height x width) makes latents of "
                f"{tuple(latents.shape[2:])}, which cannot be cut into patches of {patch}; "
                f"height must be a multiple of {factor * patch[1]}, width of {factor * patch[2]}"
            )

    def _generators(self, batch_idx: int) -> tuple[torch.Generator, torch.Generator]:
        """Streams that depend on the step alone: one for this rank, one that all ranks share."""
        micro = batch_idx % self.trainer.accumulate_grad_batches
        shared = seed_of(self.seed, self.global_step, micro)
        mine = seed_of(self.seed, self.global_step, micro, "rank", self.global_rank)
        return torch.Generator().manual_seed(mine), torch.Generator().manual_seed(shared)

    def _dropped(
        self, conditions: Conditions, mine: torch.Generator, shared: torch.Generator
    ) -> Conditions:
        names = tuple(name for name in self.make_injections if name != "instruction")
        kept = conditions.without(*self._with_dependents(self.dropout.dropped(names, shared)))
        if kept.context is None or self.dropout.instruction == 0.0:
            return kept
        assert self.context is not None
        batch = kept.context.tokens.shape[0]
        rows = torch.rand(batch, generator=mine) < self.dropout.instruction
        if not rows.any():
            return kept
        return Conditions(kept.latents, replace_rows(kept.context, self.context.null(batch), rows))

    def _with_dependents(self, dropped: tuple[str, ...]) -> set[str]:
        """What is added to the tokens of a dropped condition goes with it."""
        assert self.model is not None
        segments = {n: getattr(i, "segment", None) for n, i in self.model.injections.items()}
        return {*dropped, *(name for name, segment in segments.items() if segment in dropped)}

    def _latent_shape(self, batch: EditBatch) -> tuple[int, ...]:
        for name in ("target", "source"):
            if name in batch.latents:
                return tuple(batch.latents[name].shape)
            if name in batch.videos:
                assert self.codec is not None
                grid = self.codec.latent_grid(*batch.videos[name].shape[-3:])
                return (len(batch), self.codec.latent_channels, *grid)
        raise DataError(f"{batch.keys[0]}: neither source nor target, so no size to edit at")

    def _log_validation(
        self, name: str, value: Tensor, batch: EditBatch, prog_bar: bool = False
    ) -> None:
        self.log(name, value, prog_bar=prog_bar, batch_size=len(batch), sync_dist=True)


def _without_weights(factory: Callable[[], Any]) -> Callable[[], Any]:
    def build() -> Any:
        module = factory()
        module.weights = None
        return module

    return build


def _unchanged(factory: Callable[[], Any]) -> Callable[[], Any]:
    return factory


def _with_steps(sampler: Sampler, steps: int) -> Sampler:
    changed = copy.copy(sampler)
    changed.steps = steps
    return changed
