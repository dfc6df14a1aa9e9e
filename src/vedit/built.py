"""The parts of an editor: built with their weights, and adapted by a finetuning plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Self

from torch import Tensor, nn

from vedit.averaging import AVERAGE, Averaged
from vedit.backbones.base import Backbone, BackboneSpec
from vedit.codecs.base import Codec
from vedit.compilation import CompileBlocks
from vedit.conditioning.base import Injection
from vedit.context.base import ContextEncoder, check_streams
from vedit.errors import ConfigError
from vedit.finetune.base import Finetune
from vedit.finetune.full import Full
from vedit.finetune.plan import FinetunePlan
from vedit.finetune.start import check_start, start_from
from vedit.finetune.trained import restore
from vedit.flow.draws import drawn_from
from vedit.idle import Idle, Visitor
from vedit.model import EditModel, materialise, shapes_only


class Built(Averaged):
    """Backbone, codec, context encoder and injections, of which some train.

    It is made at once and built later, when the device is known (`configure_model`).

    Args:
        backbone: makes the diffusion transformer.
        codec: makes what turns pixels to latents and back.
        context: makes the encoder of instructions; unused if no injection reads them.
        injections: slot to what makes its injection, in the order in which they act.
        finetune: what trains of each part, and how.
        init_from: a checkpoint, a run's folder or a folder of safetensors to start from.
        init_without: patterns of its keys that are left out, such as "model.injections.mask.*".
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
        init_without: Sequence[str] = (),
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
        self.finetune, self.seed = finetune, seed
        self.init_from, self.init_without = init_from, tuple(init_without)
        self.compile_blocks, self.idle = compile, idle
        self.visitors: tuple[Visitor, ...] = ()
        self.strict_loading = False  # a checkpoint holds what trains; on_load_checkpoint is strict
        self.config: dict[str, Any] | None = None
        self.model: EditModel | None = None
        self.codec: Codec | None = None
        self.context: ContextEncoder | None = None

    def configure_model(self) -> None:
        """Build the parts with their weights; Lightning calls it once the device is known."""
        if self.model is None:
            self.build()

    def build(self, meta: bool = False) -> None:
        """Build, load strictly, start from `init_from`, apply the finetuning plan, compile.

        Args:
            meta: shapes only: no memory, no weights; those of `init_from` are compared.

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
            rest = self._started(meta)
            for name, (part, finetune) in self.parts().items():
                with drawn_from(self.seed, name):
                    self._replace_part(name, _applied(finetune, part, name))
        if rest:
            restore(self.parts(), rest, f"model.init_from: {self.init_from}", complete=False)
        if self.compile_blocks is not None and not meta:
            self.compile_blocks.apply(self.model.backbone)

    def _started(self, meta: bool) -> dict[str, Tensor]:
        """Start from `init_from`: the tensors that adapters wait for."""
        if self.init_from is None:
            return {}
        if meta:
            check_start(self.parts(), self.init_from, self.init_without)
            return {}
        rest = start_from(self.parts(), self.init_from, self.init_without)
        return {key: value for key, value in rest.items() if not key.startswith(f"{AVERAGE}.")}

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

    def train(self, mode: bool = True) -> Self:
        """Switch to training; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in (self.codec, *(part for part, _ in self._parts_or_none())):
            if module is not None and not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self

    def _parts_or_none(self) -> list[tuple[nn.Module, Finetune]]:
        return list(self.parts().values()) if self.model is not None else []


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
