"""The parts of an editor at work: spread over devices, stored, restored, and encoding batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from vedit import __version__
from vedit.batch import Conditions, EditBatch
from vedit.built import Built
from vedit.context.apart import shown_of
from vedit.distributed.checkpoint_io import reading_folders
from vedit.errors import DataError
from vedit.finetune.trained import restore, trained_state
from vedit.idle import Visitor
from vedit.parallel.gradients import clip_by_norm, clip_by_value, in_pieces
from vedit.parallel.ulysses import check_heads
from vedit.precision import adapted
from vedit.tokens import Grid
from vedit.twin import tokens_of


class Assembly(Built):
    """Backbone, codec, context encoder and injections, as a trainer and a strategy ask for them."""

    def setup(self, stage: str) -> None:
        """Take over a true half precision, before Lightning has it build the parts."""
        strategy = self.trainer.strategy
        strategy.precision_plugin = adapted(strategy.precision_plugin)
        strategy.checkpoint_io = reading_folders(strategy.checkpoint_io)

    # --- several devices ----------------------------------------------------------------------

    def sharding_units(self) -> tuple[nn.Module, Sequence[nn.Module]]:
        """The model, and the blocks in it whose weights are gathered one after the other."""
        assert self.model is not None, "configure_model() comes first"
        return self.model, list(self.model.backbone.blocks)

    def share_tokens(self, group: distributed.ProcessGroup | None) -> None:
        """Have the backbone share the tokens of each sample with other ranks.

        Args:
            group: those ranks, this one among them; None for nobody.

        Raises:
            ConfigError: if the heads of attention cannot be divided among them.
        """
        assert self.model is not None, "configure_model() comes first"
        if group is not None:
            check_heads(self.model.backbone.heads, group.size())
        self.model.backbone.context_group = group

    @property
    def data_rank(self) -> int:
        """Which part of the samples is this rank's; ranks that share tokens have the same one."""
        given = self.trainer.distributed_sampler_kwargs or {"rank": 0}
        return int(given["rank"])

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients, also where they lie in pieces: by the norm of the whole."""
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        if not gradient_clip_val or not in_pieces(trained):
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )
        elif gradient_clip_algorithm == "value":
            clip_by_value(trained, float(gradient_clip_val))
        else:
            clip_by_norm(trained, float(gradient_clip_val))

    def on_fit_start(self) -> None:
        """Send frozen encoders to the host, if they are to wait there."""
        if self.idle == "keep" or self.visitors:
            return
        assert self.codec is not None
        here = self._device_in_use
        visitors = [Visitor(self.codec, here).at(self.codec, ("encode", "decode"))]
        for encoder in () if self.context is None else self.context.encoders():
            if not any(parameter.requires_grad for parameter in encoder.tower.parameters()):
                visitors.append(Visitor(encoder.tower, here).at(encoder, ("features",)))
        for visitor in visitors:
            visitor.go_home()
        self.visitors = tuple(visitors)

    def _device_in_use(self) -> torch.device:
        return self.device

    # --- weights that train -------------------------------------------------------------------

    def trained_state(self) -> dict[str, Tensor]:
        """What trains and its average, and nothing else, by the keys of a checkpoint."""
        self.start_average()
        return trained_state(self.parts())

    def load_trained(self, state: Mapping[str, Tensor], where: str) -> None:
        """Load what `trained_state` gave, strictly.

        Args:
            state: the tensors, by the same keys.
            where: the file, for messages.

        Raises:
            WeightsError: if a key is missing or unexpected, or a shape differs.
        """
        self.start_average()
        restore(self.parts(), state, where)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what trains, and add the configuration and the version."""
        checkpoint["state_dict"] = trained_state(self.parts(), checkpoint["state_dict"])
        checkpoint["config"] = self.config
        checkpoint["vedit_version"] = __version__

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load what trains, strictly.

        Args:
            checkpoint: what `on_save_checkpoint` stored.

        Raises:
            WeightsError: if the checkpoint holds anything else, or less.
        """
        self.load_trained(checkpoint["state_dict"], "ckpt_path")

    # --- encoding -----------------------------------------------------------------------------

    def conditions(self, batch: EditBatch) -> Conditions:
        """Encode what the configured slots read and the cache does not hold."""
        latents = {}
        for name in self.make_injections:
            if name != "instruction" and (found := self._signal(batch, name)) is not None:
                latents[name] = found
        if "instruction" not in self.make_injections:
            return Conditions(latents)
        images = {k: v for k, v in batch.videos.items() if k != "target"}
        assert self.context is not None
        shown = shown_of(batch, self.context.reads_images)
        context = self.context(batch.instruction, images, batch.features, shown)
        return Conditions(latents, context)

    def reads_pixels(self) -> tuple[str, ...]:
        """Slots whose injection is given the pixels of its condition instead of latents."""
        assert self.model is not None, "configure_model() comes first"
        slots = self.model.injections.items()
        return tuple(name for name, injection in slots if injection.reads == "pixels")

    def tokens_of(self, video: Grid, present: Collection[str]) -> int:
        """Tokens that the backbone reads for a sample of that size, see `vedit.twin.tokens_of`."""
        return tokens_of(self, video, present)

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

    def latent_shape(self, batch: EditBatch) -> tuple[int, ...]:
        """The shape of the latents of an edit, which is that of the target, or of the source.

        Args:
            batch: with either of them.

        Returns:
            (B, C, t, h, w).

        Raises:
            DataError: if the batch has neither.
        """
        for name in ("target", "source"):
            if name in batch.latents:
                return tuple(batch.latents[name].shape)
            if name in batch.videos:
                assert self.codec is not None
                grid = self.codec.latent_grid(*batch.videos[name].shape[-3:])
                return (len(batch), self.codec.latent_channels, *grid)
        raise DataError(f"{batch.keys[0]}: neither source nor target, so no size to edit at")
