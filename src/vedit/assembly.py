"""The parts of an editor: built with their weights, adapted, restored, and encoding batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from vedit import __version__
from vedit.averaging import AVERAGE, Averaged
from vedit.backbones.base import Backbone, BackboneSpec
from vedit.batch import Conditions, EditBatch
from vedit.codecs.base import Codec
from vedit.compilation import CompileBlocks
from vedit.conditioning.base import Injection
from vedit.context.apart import shown_of
from vedit.context.base import ContextEncoder, check_streams
from vedit.distributed.checkpoint_io import reading_folders
from vedit.errors import ConfigError, DataError
from vedit.finetune.base import Finetune
from vedit.finetune.full import Full
from vedit.finetune.plan import FinetunePlan
from vedit.finetune.trained import restore, start_from, trained_state
from vedit.flow.draws import drawn_from
from vedit.idle import Idle, Visitor
from vedit.model import EditModel, materialise, shapes_only
from vedit.parallel.gradients import clip_by_norm, clip_by_value, in_pieces
from vedit.parallel.ulysses import check_heads
from vedit.precision import adapted
from vedit.tokens import Grid
from vedit.twin import tokens_of


class Assembly(Averaged):
    """Backbone, codec, context encoder and injections, of which some train.

    It is made at once and built later, when the device is known (`configure_model`).

    Args:
        backbone: makes the diffusion transformer.
        codec: makes what turns pixels to latents and back.
        context: makes the encoder of instructions; unused if no injection reads them.
        injections: slot to what makes its injection, in the order in which they act.
        finetune: what trains of each part, and how.
        init_from: a checkpoint, a run's folder or a folder of safetensors to start from.
        compile: how the backbone's blocks are compiled; None leaves them as they are.
        seed: of the weights that nothing is loaded into. Those of a part depend on it and on the
            part alone, so that a random tower is the same in every stage of a curriculum, and when
            a checkpoint, which does not hold what is frozen, is edited with.
        idle: where codec and frozen towers are between uses in training: "keep" them on the device,
            or "offload" them to the host's memory, from which each use copies them.

    Attributes:
        model: the backbone with its injections; None until built, as the next two.
        codec: never trains.
        context: the context encoder, if there is one.
        config: the resolved configuration, stored in every checkpoint.

    Raises:
        ConfigError: if instructions are injected and nothing encodes them.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone],
        codec: Callable[[], Codec],
        context: Callable[[BackboneSpec], ContextEncoder] | None,
        injections: Mapping[str, Callable[[BackboneSpec], Injection]],
        finetune: FinetunePlan,
        init_from: str | None = None,
        compile: CompileBlocks | None = None,
        seed: int = 0,
        idle: Idle = "keep",
    ) -> None:
        super().__init__()
        self.make_backbone, self.make_codec = backbone, codec
        self.make_injections = dict(injections)
        if "instruction" in injections and context is None:
            raise ConfigError("model.instruction: needs model.context, which is null")
        self.make_context = context if "instruction" in injections else None
        self.finetune, self.init_from, self.seed = finetune, init_from, seed
        self.compile_blocks, self.idle = compile, idle
        self.visitors: tuple[Visitor, ...] = ()
        self.strict_loading = False  # a checkpoint holds what trains; on_load_checkpoint is strict
        self.config: dict[str, Any] | None = None
        self.model: EditModel | None = None
        self.codec: Codec | None = None
        self.context: ContextEncoder | None = None

    # --- building -----------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take over a true half precision, before Lightning has it build the parts."""
        strategy = self.trainer.strategy
        strategy.precision_plugin = adapted(strategy.precision_plugin)
        strategy.checkpoint_io = reading_folders(strategy.checkpoint_io)

    def configure_model(self) -> None:
        """Build the parts with their weights; Lightning calls it once the device is known."""
        if self.model is None:
            self.build()

    def build(self, meta: bool = False) -> None:
        """Build, load strictly, start from `init_from`, apply the finetuning plan, compile.

        Args:
            meta: shapes only: no memory, no weights, no `init_from`.

        Raises:
            WeightsError: if weights do not fit.
            ConfigError: if two parts do not fit each other.
        """
        planned = _without_weights if meta else _unchanged
        with shapes_only() if meta else nullcontext():
            with drawn_from(self.seed, "model"):
                self.model = EditModel.build(planned(self.make_backbone), self.make_injections)
            spec = self.model.backbone.spec
            with drawn_from(self.seed, "codec"):
                self.codec = materialise(planned(self.make_codec))
            if self.make_context is not None:
                with drawn_from(self.seed, "context"):
                    self.context = materialise(planned(partial(self.make_context, spec)))
            self._check_fit(spec)
            self.codec.requires_grad_(False).eval()
            init = None if meta else self.init_from
            rest = {} if init is None else start_from(self.parts(), init)
            rest = {key: value for key, value in rest.items() if not key.startswith(f"{AVERAGE}.")}
            for name, (part, finetune) in self.parts().items():
                with drawn_from(self.seed, name):
                    self._replace_part(name, _applied(finetune, part, name))
        if rest:
            restore(self.parts(), rest, f"model.init_from: {init}", complete=False)
        if self.compile_blocks is not None and not meta:
            self.compile_blocks.apply(self.model.backbone)

    def _check_fit(self, spec: BackboneSpec) -> None:
        assert self.codec is not None
        check_streams(spec, getattr(self.context, "streams", ()))
        if self.codec.latent_channels != spec.latent_channels:
            raise ConfigError(
                f"model.codec: makes {self.codec.latent_channels} latent channels, but "
                f"model.backbone takes {spec.latent_channels}"
            )

    def parts(self) -> dict[str, tuple[nn.Module, Finetune]]:
        """The parts that a finetuning plan speaks of, each with its method.

        Returns:
            By the prefix of their keys: "model.backbone", "model.injections" and, with a context
            encoder, "context.tower" and "context.connector"; "average" once there is one.
        """
        assert self.model is not None, "configure_model() comes first"
        plan = self.finetune
        parts: dict[str, tuple[nn.Module, Finetune]] = {
            "model.backbone": (self.model.backbone, plan.backbone),
            "model.injections": (self.model.injections, plan.injections),
        }
        if self.context is not None:
            parts["context.tower"] = (self.context.tower, plan.tower)
            parts["context.connector"] = (self.context.connector, plan.connector)
        if self.average is not None:
            parts[AVERAGE] = (self.average, Full())
        return parts

    def _replace_part(self, name: str, part: nn.Module) -> None:
        owner, _, attribute = name.rpartition(".")
        setattr(self.get_submodule(owner), attribute, part)

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

    def train(self, mode: bool = True) -> Self:
        """Switch to training; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in (self.codec, *(part for part, _ in self._parts_or_none())):
            if module is not None and not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self

    def _parts_or_none(self) -> list[tuple[nn.Module, Finetune]]:
        return list(self.parts().values()) if self.model is not None else []

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


def _applied(finetune: Finetune, part: nn.Module, name: str) -> nn.Module:
    """The adapted part; what is wrong with the method is said of the key that names it."""
    try:
        return finetune.apply(part)
    except ConfigError as error:
        raise ConfigError(f"model.finetune.{name.rpartition('.')[2]}: {error}") from error


def _without_weights(factory: Callable[[], Any]) -> Callable[[], Any]:
    def build() -> Any:
        module = factory()
        module.weights = None
        return module

    return build


def _unchanged(factory: Callable[[], Any]) -> Callable[[], Any]:
    return factory
