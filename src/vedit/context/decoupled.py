"""Words and images encoded apart: each encoder's tokens are a stream of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from vedit.backbones.base import BackboneSpec
from vedit.context.base import ContextEncoder, check_streams
from vedit.tokens import Context

EncoderFactory = Callable[[BackboneSpec], ContextEncoder]

TEXT, IMAGE = "text", "image"


class Decoupled(ContextEncoder):
    """Two encoders that do not see each other, for blocks with a key/value branch for each.

    The text encoder's tokens are the main stream, the image encoder's the stream "image". With
    `UMT5` and `CLIPImages` this is the conditioning of Wan's image-to-video models (arXiv
    2503.20314, section 5.1).

    Where a batch has none of the images, such as a reference that was dropped, there is no stream.

    Its parts are those of the two encoders, under the names "text" and "image": a finetuning target
    in the text encoder's connector is called `text.linear_1`.

    Args:
        spec: sizes of the backbone.
        text: builds the encoder of the main stream.
        image: builds the encoder of the stream "image".

    Raises:
        ConfigError: if the backbone's blocks do not take the stream "image".
    """

    tower: nn.ModuleDict
    connector: nn.ModuleDict
    streams = (IMAGE,)

    def __init__(self, spec: BackboneSpec, text: EncoderFactory, image: EncoderFactory) -> None:
        super().__init__()
        check_streams(spec, self.streams)
        self._spec, self._factories = spec, {TEXT: text, IMAGE: image}
        self._adopt({name: factory(spec) for name, factory in self._factories.items()})
        named = (encoder.weights for encoder in self._encoders.values())
        self.weights = next((weights for weights in named if weights is not None), None)

    def load_weights(self) -> None:
        """Load the weights of both encoders; one that names none is built anew.

        Raises:
            WeightsError: if they do not fit.
        """
        for name, encoder in self._encoders.items():
            if encoder.weights is not None:
                encoder.load_weights()
            else:
                self._adopt({**self._encoders, name: self._factories[name](self._spec)})

    @property
    def is_drawn(self) -> bool:
        """Whether either encoder has random weights."""
        return any(encoder.is_drawn for encoder in self._encoders.values())

    def features(
        self, instruction: Sequence[str], images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Features of both encoders.

        Args:
            instruction: B instructions.
            images: name to tensor, as both encoders take them.

        Returns:
            What each returns, under "text." or "image." and its own name; nothing of the image
            encoder if there are none of its images.
        """
        seen = any(name in images for name in self._encoders[IMAGE].reads_images)
        return {
            f"{name}.{key}": value
            for name, encoder in self._encoders.items()
            if seen or name != IMAGE
            for key, value in encoder.features(instruction, images).items()
        }

    def context(self, features: Mapping[str, Tensor]) -> Context:
        """The text encoder's context with the image encoder's as its stream "image".

        Args:
            features: what `features` returned.

        Returns:
            Tokens (B, L, D), and (B, M, D) in the stream if there were images.
        """
        of: dict[str, dict[str, Tensor]] = {TEXT: {}, IMAGE: {}}
        for key, value in features.items():
            name, _, own = key.partition(".")
            of[name][own] = value
        text = self._encoders[TEXT].context(of[TEXT])
        if not of[IMAGE]:
            return text
        image = self._encoders[IMAGE].context(of[IMAGE])
        return replace(text, streams={**text.streams, IMAGE: image})

    def encoders(self) -> tuple[ContextEncoder, ...]:
        """Both."""
        return tuple(self._encoders.values())

    def lengths(self, images: Mapping[str, Tensor]) -> dict[str, int]:
        """Those of both encoders."""
        text, image = (encoder.lengths(images) for encoder in self._encoders.values())
        return text | ({IMAGE: image[""]} if "" in image else {})

    def null(self, batch: int) -> Context:
        """The empty instruction without the stream "image".

        Guidance then keeps the images of the conditions in both of its branches, as diffusers'
        `WanImageToVideoPipeline` does: its scale is one on the instruction alone.
        """
        return self._encoders[TEXT].null(batch)

    def fingerprint(self) -> str:
        """Digest of the fingerprints of both encoders."""
        parts = (f"{name} {encoder.fingerprint()}" for name, encoder in self._encoders.items())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def _adopt(self, encoders: Mapping[str, ContextEncoder]) -> None:
        # A plain dict registers nothing: else every parameter would have two names.
        self._encoders = dict(encoders)
        self.tower = nn.ModuleDict({name: e.tower for name, e in encoders.items()})
        self.connector = nn.ModuleDict({name: e.connector for name, e in encoders.items()})
        self.on_host = tuple(f"{n}.{own}" for n, e in encoders.items() for own in e.on_host)
        names = [name for encoder in encoders.values() for name in encoder.reads_images]
        self.reads_images = tuple(dict.fromkeys(names))
