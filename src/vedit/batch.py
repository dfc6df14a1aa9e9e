"""What a step is given (`EditBatch`) and what the model is conditioned on (`Conditions`)."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

from vedit.tokens import Context


@dataclass(frozen=True)
class EditBatch:
    """Pixels and words of B samples of one shape.

    A condition that is absent is absent for the whole batch: the batch plan puts samples with the
    same conditions together, so that every rank trains the same modules at each step.

    Attributes:
        instruction: B instructions.
        keys: B sample keys, for messages and reports.
        videos: "source", "target", "mask" to (B, 3, F, H, W) in [-1, 1]; what the cache holds as
            latents may be missing here.
        reference: (B, R, 3, H, W) in [-1, 1], or None: what is encoded to latents.
        shown: B times R references (3, h, w) in [-1, 1] as a context encoder is shown them: each at
            a size of its own, without the ground and the augmentation of `reference`. Empty where
            no encoder looks at references.
        latents: cached codec outputs by name, "source", "target", "mask", "reference", each
            (B, C, t, h, w); a name that is here is not encoded again.
        features: cached features of the context encoder's frozen part, by name.
        edits: B names of the edits where they are known, for reports.
        clips: B names of the source clips (the same clip under several edits bears one name).
        task: what kind of sample this is, such as "video" or "image".
    """

    instruction: tuple[str, ...]
    keys: tuple[str, ...]
    videos: Mapping[str, Tensor] = field(default_factory=dict)
    reference: Tensor | None = None
    shown: tuple[tuple[Tensor, ...], ...] = ()
    latents: Mapping[str, Tensor] = field(default_factory=dict)
    features: Mapping[str, Tensor] | None = None
    edits: tuple[str, ...] = ()
    clips: tuple[str, ...] = ()
    task: str = "video"

    def __len__(self) -> int:
        return len(self.instruction)

    def without(self, *names: str) -> "EditBatch":
        """The batch without those conditions, as pixels and as latents."""
        if not names:
            return self

        def kept(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor for name, tensor in tensors.items() if name not in names}

        batch = replace(self, videos=kept(self.videos), latents=kept(self.latents))
        return replace(batch, reference=None, shown=()) if "reference" in names else batch

    def to(
        self,
        device: torch.device | str,
        non_blocking: bool = False,
        on_host: Collection[str] = (),
    ) -> "EditBatch":
        """The batch with its tensors on `device`, except for the features named in `on_host`."""
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        if self.features is None or not on_host:
            return moved
        kept = {name: value for name, value in self.features.items() if name in on_host}
        return replace(moved, features={**(moved.features or {}), **kept})

    def pin_memory(self) -> "EditBatch":
        """The batch with its tensors in pinned memory, as torch's DataLoader asks for."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> "EditBatch":
        def each(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: change(tensor) for name, tensor in tensors.items()}

        return replace(
            self,
            videos=each(self.videos),
            reference=None if self.reference is None else change(self.reference),
            shown=tuple(tuple(map(change, images)) for images in self.shown),
            latents=each(self.latents),
            features=None if self.features is None else each(self.features),
        )


@dataclass(frozen=True)
class UnlikeBatch:
    """Samples whose shapes differ, for a model that packs them side by side.

    Attributes:
        parts: a batch of one sample each; all have the same conditions.
    """

    parts: tuple[EditBatch, ...]

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the samples."""
        return tuple(key for part in self.parts for key in part.keys)

    @property
    def task(self) -> str:
        """The kinds of samples, such as "image+video"."""
        return "+".join(sorted({part.task for part in self.parts}))

    def to(
        self,
        device: torch.device | str,
        non_blocking: bool = False,
        on_host: Collection[str] = (),
    ) -> "UnlikeBatch":
        """The batch on `device`, see `EditBatch.to`."""
        return UnlikeBatch(tuple(part.to(device, non_blocking, on_host) for part in self.parts))

    def pin_memory(self) -> "UnlikeBatch":
        """The batch in pinned memory, as torch's DataLoader asks for."""
        return UnlikeBatch(tuple(part.pin_memory() for part in self.parts))


Batch: TypeAlias = EditBatch | UnlikeBatch


@dataclass(frozen=True)
class Conditions:
    """What the model is conditioned on; a name that is absent is a condition that is off.

    Attributes:
        latents: condition name ("source", "mask", "reference", or an extra one) to
            (B, C, t, h, w), references along t, one latent frame each; or to pixels
            (B, 3, F, H, W) for an injection that reads those.
        context: the encoded instruction, or None for a model without one.
    """

    latents: Mapping[str, Tensor] = field(default_factory=dict)
    context: Context | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.latents or (name == "instruction" and self.context is not None)

    def __getitem__(self, name: str) -> Tensor | Context:
        """The signal for injection `name`; "instruction" is the context.

        Args:
            name: a condition.

        Returns:
            Latents (B, C, t, h, w), or the context.

        Raises:
            KeyError: if that condition is absent; the message lists those there are.
        """
        if name == "instruction" and self.context is not None:
            return self.context
        if name in self.latents:
            return self.latents[name]
        there = [*self.latents, *(["instruction"] if self.context is not None else [])]
        raise KeyError(f"no condition '{name}'; there are: {', '.join(there) or 'none'}")

    def without(self, *names: str) -> "Conditions":
        """The conditions with those names off."""
        kept = {name: value for name, value in self.latents.items() if name not in names}
        context = None if "instruction" in names else self.context
        return Conditions(kept, context)

    def to(self, dtype: torch.dtype) -> "Conditions":
        """The conditions in a floating-point type; what marks padding stays as it is."""
        latents = {name: value.to(dtype) for name, value in self.latents.items()}
        return Conditions(latents, None if self.context is None else _cast(self.context, dtype))


def _cast(context: Context, dtype: torch.dtype) -> Context:
    streams = {name: _cast(stream, dtype) for name, stream in context.streams.items()}
    return replace(context, tokens=context.tokens.to(dtype), streams=streams)
