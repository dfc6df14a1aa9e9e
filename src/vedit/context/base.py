"""What a context encoder is to the rest of the package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from vedit.backbones.base import BackboneSpec
from vedit.context.apart import References, features_apart
from vedit.errors import ConfigError
from vedit.tokens import Context


def check_streams(spec: BackboneSpec, streams: Sequence[str]) -> None:
    """Refuse a context of several streams for blocks that cannot take them all.

    Args:
        spec: sizes of the backbone.
        streams: names of the streams that an encoder emits beside the main one.

    Raises:
        ConfigError: if the blocks have no branch for one of them.
    """
    missing = [name for name in streams if name not in spec.streams]
    if missing:
        raise ConfigError(
            f"model.backbone.init_args.block: has no branch for the context's stream "
            f"'{missing[0]}' (it has {', '.join(spec.streams) or 'none besides the main one'}); "
            "choose vedit.backbones.blocks.DualCrossBlock, or an encoder of one stream"
        )


class ContextEncoder(nn.Module, ABC):
    """Turns instructions, and images if it reads any, into tokens at the backbone's width.

    It has two parts, so that they can be finetuned apart: `tower`, the pretrained encoder, and
    `connector`, everything between it and the backbone. What the tower computes are *features*:
    while it is frozen they can be stored once per sample.

    Attributes:
        tower: the pretrained encoder (finetune key ``tower``).
        connector: maps features to the backbone's width (finetune key ``connector``).
        weights: folder or hub id of the tower's weights, None for random ones.
        reads_images: names of the images that `features` depends on, such as "source".
        streams: names of the contexts it emits beside the main one (`Context.streams`).
        on_host: names of features whose values `context` asks for, such as lengths; they stay on
            the host, where asking costs nothing, while the others go to the device.
    """

    tower: nn.Module
    connector: nn.Module
    weights: str | None
    reads_images: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    on_host: tuple[str, ...] = ()

    @property
    def is_drawn(self) -> bool:
        """Whether some of the tower has random weights, which lie in no folder."""
        return self.weights is None

    @property
    def stored_features_hold(self) -> bool:
        """Whether features that were stored once stay true: what makes them is frozen."""
        return not any(parameter.requires_grad for parameter in self.tower.parameters())

    @abstractmethod
    def features(
        self, instruction: Sequence[str], images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What the tower makes of B samples.

        Args:
            instruction: B instructions.
            images: name to (B, 3, F, H, W) in [-1, 1]. "reference" is one frame at its own size;
                further references are called "reference.1" and so on.

        Returns:
            Tensors of B rows each. Where samples differ in length, rows are padded with zeros at
            the end of their first dimension; storage may cut those off and pad anew.
        """

    @abstractmethod
    def context(self, features: Mapping[str, Tensor]) -> Context:
        """The tokens (B, L, D) that the backbone attends to, from `features`."""

    def encoders(self) -> tuple[ContextEncoder, ...]:
        """The encoders that have a tower of their own: itself, or those it is made of."""
        return (self,)

    def lengths(self, images: Mapping[str, Tensor]) -> dict[str, int]:
        """How many tokens the context of a sample has, as far as words do not decide it.

        Args:
            images: as `features` takes them; their shapes count, so they may be on the meta device.

        Returns:
            Tokens of the main stream under "", those of others by name; nothing where only words
            decide.
        """
        return {}

    @abstractmethod
    def null(self, batch: int) -> Context:
        """The context of the empty instruction, `batch` times, for classifier-free guidance."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of the tower's sizes and weights; equal digests mean equal features."""

    @abstractmethod
    def load_weights(self) -> None:
        """Load the weights of both parts strictly; the module may be on the meta device.

        Raises:
            WeightsError: if a tensor is missing, unexpected or of another shape.
        """

    def forward(
        self,
        instruction: Sequence[str],
        images: Mapping[str, Tensor],
        features: Mapping[str, Tensor] | None = None,
        shown: References = (),
    ) -> Context:
        """Encode B samples, from stored `features` if there are any.

        Args:
            instruction: B instructions.
            images: name to tensor, as `features` takes them.
            features: what `features` returned for these samples earlier.
            shown: references of each sample, R images (3, h, w) of any sizes, in place of those in
                `images`.

        Returns:
            Tokens (B, L, D).

        Raises:
            ConfigError: if features are given although what makes them trains.
        """
        if features is None:
            return self.context(features_apart(self.features, instruction, images, shown))
        if not self.stored_features_hold:
            raise ConfigError(
                "model.finetune.tower: trains what the stored features come from, so they cannot "
                "be used; set data.latents to never, or freeze that part"
            )
        return self.context(features)
