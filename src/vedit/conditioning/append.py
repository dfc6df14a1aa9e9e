"""Conditions that are appended as tokens of their own: latents, and the instruction."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from vedit.backbones.base import BackboneSpec
from vedit.conditioning.base import Injection, context_of, latents_of
from vedit.conditioning.embed import EmbedFactory, PatchEmbed, SharedPatchEmbed
from vedit.errors import ConfigError, nearest
from vedit.tokens import Context, Segment, TokenSequence, grid_positions

Time = Literal["aligned", "before", "after"]
Noise = Literal["clean", "shared"]


def time_start(sequence: TokenSequence, frames: int, time: Time) -> int:
    """The time index of the first of `frames` latent frames that join a sequence.

    Args:
        sequence: what is there already.
        frames: latent frames to place.
        time: "aligned" starts at 0, "after" behind the last index of the frames in the sequence,
            "before" ends in front of the first; tokens without a grid, such as those of an
            instruction, are no frames.

    Returns:
        The time index; may be negative.
    """
    if time == "aligned":
        return 0
    times = [segment.times() for segment in sequence.segments if segment.grid is not None]
    if time == "after":
        return max(last for _, last in times) + 1
    return min(first for first, _ in times) - frames


class AppendTokens(Injection):
    """Append the embedded condition to the sequence, as a segment named after its slot.

    The target attends to it in every block. EasyV2V, section 3 (source in front, reference at
    the end; places in time and noise levels are not stated), and Kiwi-Edit (reference: after the
    video at its noise level).

    Args:
        spec: sizes of the backbone.
        embed: makes the embedding of the condition.
        time: where it lies on the time axis; "aligned" gives frame i of the condition the position
            of frame i of the target, "after" and "before" continue the time axis.
        noise: its noise level; "clean" is 0, "shared" is that of the target.
        sees: names of the segments that its tokens may attend to; None means all.
        offset: added to its time positions.

    Raises:
        ConfigError: if `time` or `noise` is not one of the allowed names.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        embed: EmbedFactory = PatchEmbed,
        time: Time = "aligned",
        noise: Noise = "clean",
        sees: Sequence[str] | None = None,
        offset: int = 0,
    ) -> None:
        super().__init__()
        for key, value, allowed in (("time", time, Time), ("noise", noise, Noise)):
            names = get_args(allowed)
            if value not in names:
                raise ConfigError(
                    f"{key}: '{value}' is none of {', '.join(names)}.{nearest(value, names)}"
                )
        self.embed = embed(spec)
        self.reads = self.embed.reads
        self.time: Time = time
        self.noise: Noise = noise
        self.sees = None if sees is None else tuple(sees)
        self.offset = offset

    def forward(
        self, sequence: TokenSequence, signal: Tensor | Context, name: str
    ) -> TokenSequence:
        """Append the condition.

        Args:
            sequence: must hold the target.
            signal: latents (B, C, t, h, w); several references lie along t.
            name: of the slot, and of the new segment.

        Returns:
            The sequence with one more segment (B, N, D).
        """
        tokens, grid = self.embed(latents_of(signal, name), sequence)
        start = time_start(sequence, grid[0], self.time) + self.offset
        sigma = sequence["target"].sigma
        return sequence.append(
            Segment(
                name=name,
                tokens=tokens,
                positions=grid_positions(grid, tokens.device, start),
                sigma=torch.zeros_like(sigma) if self.noise == "clean" else sigma,
                grid=grid,
                sees=self.sees,
                start=start,
            )
        )


class PrependFrames(AppendTokens):
    """Prepend clean frames to the video.

    A segment at time -1 with noise level 0 and the backbone's own embedding is what prepending a
    clean frame to the latents (and cutting it off the output) would give: rotary attention depends
    on differences of positions alone, and the order of tokens in memory does not matter. MiVE,
    section 4.3; there the source enters by `ConcatChannels` with `widen`, so that the frame fills
    both halves of the channels. The loss does not cover these frames.

    Args:
        spec: sizes of the backbone.
        embed: makes the embedding of the frames.
        sees: names of the segments that the frames may attend to; None means all.
        offset: added to their time positions.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        embed: EmbedFactory = SharedPatchEmbed,
        sees: Sequence[str] | None = None,
        offset: int = 0,
    ) -> None:
        super().__init__(spec, embed, time="before", noise="clean", sees=sees, offset=offset)


def padded_in_front(context: Context) -> Context:
    """The context (B, L, D) with each sample's padding in front of its tokens, which keep order."""
    if context.valid is None:
        return context
    order = context.valid.long().argsort(dim=1, stable=True)
    tokens = context.tokens.gather(1, order[..., None].expand_as(context.tokens))
    return Context(tokens, context.valid.gather(1, order))


class AppendContext(Injection):
    """Append the encoded instruction to the sequence, as a segment named after its slot.

    For blocks without cross-attention (`UnifiedBlock`): context and video meet in one
    self-attention, and the context is modulated as clean at every step. MiVE, sections 4.2 and 4.4,
    equation 7. The paper does not say where the context lies on the time axis; here token i of L
    lies at time i - L - 1, row 0, column 0, before the video and one frame in front of it. Padding
    is moved to the front, so that a sample's positions do not depend on the rest of its batch.

    Args:
        spec: sizes of the backbone.
        start: time position of the first token, padding behind the last; None is -L - 1.
        sees: names of the segments that its tokens may attend to; None means all.

    Raises:
        ConfigError: if the backbone's blocks have cross-attention, which nothing would feed.
    """

    def __init__(
        self, spec: BackboneSpec, start: int | None = None, sees: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        if spec.cross_attention:
            raise ConfigError(
                "AppendContext leaves the cross-attention of this backbone's `block` without a "
                "context; choose vedit.backbones.blocks.UnifiedBlock as the `block`, or CrossAttend"
            )
        self.start = start
        self.sees = None if sees is None else tuple(sees)

    def forward(
        self, sequence: TokenSequence, signal: Tensor | Context, name: str
    ) -> TokenSequence:
        """Append the context.

        Args:
            sequence: must hold the target.
            signal: the encoded instruction, tokens (B, L, D); nobody attends to its padding.
            name: of the slot, and of the new segment.

        Returns:
            The sequence with one more segment (B, L, D).

        Raises:
            TypeError: if the signal is not a context.
            ConfigError: if the context has streams, for which one segment has no place.
        """
        context = context_of(signal, name)
        if context.streams:
            raise ConfigError(
                f"{name}: AppendContext appends the main stream alone, but the context also has "
                f"{', '.join(context.streams)}; choose an encoder of one stream"
            )
        length = context.tokens.shape[1]
        start = -length - 1 if self.start is None else self.start
        if self.start is None:
            context = padded_in_front(context)
        sigma = sequence["target"].sigma
        return sequence.append(
            Segment(
                name=name,
                tokens=context.tokens,
                positions=grid_positions((length, 1, 1), context.tokens.device, start),
                sigma=torch.zeros_like(sigma),
                sees=self.sees,
                valid=context.valid,
            )
        )
