"""The conditioned denoiser: a backbone and the injections around it."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from vedit.backbones.base import Backbone, BackboneSpec
from vedit.batch import Conditions
from vedit.conditioning.base import Injection
from vedit.errors import ConfigError
from vedit.packing import SideBySide
from vedit.tokens import TokenSequence

_INITIALISER = re.compile("[a-z][a-z_]*_$")  # such as `nn.init.normal_`

InjectionFactory = Callable[[BackboneSpec], Injection]


class Loadable(Protocol):
    """A module that knows where its weights are."""

    weights: str | None

    def load_weights(self) -> None:
        """Load `weights` strictly; the module may be on the meta device."""


Module = TypeVar("Module", bound=nn.Module)


def materialise(factory: Callable[[], Module]) -> Module:
    """Build a module with its pretrained weights, and without ever holding random ones besides.

    Args:
        factory: builds the module; its `weights` attribute says whether there is anything to load,
            its `load_weights` loads it.

    Returns:
        The module with loaded weights, or freshly initialised if it names none.

    Raises:
        WeightsError: if the weights do not fit.
    """
    with torch.device("meta"):
        module = factory()
    if getattr(module, "weights", None) is None:
        # Where shapes are all that is wanted, they are there already.
        return module if torch.get_default_device().type == "meta" else factory()
    cast(Loadable, module).load_weights()
    return module


@contextmanager
def shapes_only() -> Iterator[None]:
    """Build on the meta device, where drawing first weights would take most of the time.

    Yields:
        Nothing; inside, `torch.nn.init` does nothing.
    """
    drawn = {name: getattr(nn.init, name) for name in dir(nn.init) if _INITIALISER.match(name)}
    try:
        for name in drawn:
            setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)
        with torch.device("meta"):
            yield
    finally:
        for name, function in drawn.items():
            setattr(nn.init, name, function)


def _load_inside(injection: nn.Module) -> None:
    """Load the pretrained weights that parts of an injection name, such as its embedding."""
    for part in injection.modules():
        if getattr(part, "weights", None) is not None and hasattr(part, "load_weights"):
            cast(Loadable, part).load_weights()


class EditModel(nn.Module):
    """A backbone and its injections: the one root that is sharded.

    Args:
        backbone: the denoiser.
        injections: by slot, in the order in which they act.
    """

    def __init__(self, backbone: Backbone, injections: nn.ModuleDict) -> None:
        super().__init__()
        self.backbone = backbone
        self.injections = injections

    @classmethod
    def build(
        cls,
        backbone: Callable[[], Backbone],
        injections: Mapping[str, InjectionFactory | None],
    ) -> "EditModel":
        """Build the backbone, load its weights, and build the injections to its sizes.

        Args:
            backbone: builds the backbone.
            injections: slot to factory, in the order in which they act; None is off.

        Returns:
            The model, its injections fresh unless they name weights of their own.

        Raises:
            ConfigError: if an injection does not suit the backbone; it names the slot.
            WeightsError: if the backbone's weights do not fit.
        """
        model = materialise(backbone)
        built = nn.ModuleDict()
        for name, factory in injections.items():
            if factory is None:
                continue
            try:
                built[name] = factory(model.spec)
            except ConfigError as error:
                raise ConfigError(f"model.{name}: {error}") from error
            _load_inside(built[name])
        return cls(model, built)

    def sequence(self, x_t: Tensor, sigma: Tensor, conditions: Conditions) -> TokenSequence:
        """The sequence that the backbone reads.

        A condition that is absent leaves its injection out.

        Args:
            x_t: (B, C, t, h, w) noisy latents.
            sigma: (B,) noise level in [0, 1].
            conditions: what to condition on.

        Returns:
            Segments "target", then those that injections appended.
        """
        sequence = TokenSequence.of_target(x_t, sigma, self.backbone.embed)
        for name, injection in self.injections.items():
            if name in conditions:
                sequence = injection(sequence, conditions[name], name)
        return sequence

    def forward(
        self,
        x_t: Tensor | Sequence[Tensor],
        sigma: Tensor,
        conditions: Conditions | Sequence[Conditions],
    ) -> Tensor | list[Tensor]:
        """Predict the velocity, in the type of the backbone's weights.

        Args:
            x_t: (B, C, t, h, w) noisy latents; or those of S samples (1, C, t, h, w), whose shapes
                and conditions may differ, to be packed side by side.
            sigma: (B,) or (S,) noise level in [0, 1], in float32 whatever the weights are.
            conditions: what to condition on; of each sample where there are several.

        Returns:
            (B, C, t, h, w), noise minus clean; of each sample where there are several.
        """
        dtype = next(self.backbone.parameters()).dtype
        if isinstance(x_t, Tensor):
            assert isinstance(conditions, Conditions)
            return self.backbone(self.sequence(x_t.to(dtype), sigma, conditions.to(dtype)))
        assert not isinstance(conditions, Conditions)
        rows = zip(x_t, sigma.split(1), conditions, strict=True)
        sequences = [self.sequence(x.to(dtype), level, given.to(dtype)) for x, level, given in rows]
        return self.backbone(SideBySide(tuple(sequences)))
