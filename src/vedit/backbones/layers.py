"""Attention and feed-forward layers of a block, and what they read besides the tokens.

Parameters bear the names that diffusers' Wan blocks give them.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from vedit.attention import Kernel, attention
from vedit.backbones.norm import RMSNorm
from vedit.backbones.rope import rotate
from vedit.parallel.ulysses import Share
from vedit.tokens import AttentionLayout, Context


@dataclass(frozen=True)
class Surroundings:
    """What every block of one forward pass reads besides the tokens.

    Attributes:
        modulation: (B, G, 6, D), one row per sample and run of `lengths`.
        lengths: tokens of each segment that the blocks are given.
        rotation: (N, head width / 2, 2), from `vedit.backbones.rope.rotation`, of the tokens
            that the blocks are given.
        layout: lengths and visibility of the segments.
        context: what cross-attention attends to, None for nothing.
        kernel: the attention implementation.
        valid: (B, N) bool, False where a token is padding; None if there is none.
        share: which of the tokens the blocks are given here, None for all; `layout` and `valid`
            speak of all.
        samples: tokens of each sample that the blocks are given, where several are side by side.
    """

    modulation: Tensor
    lengths: tuple[int, ...]
    rotation: Tensor
    layout: AttentionLayout
    context: Context | None
    kernel: Kernel
    valid: Tensor | None = None
    share: Share | None = None
    samples: tuple[int, ...] | None = None

    def towards(self, context: Context) -> AttentionLayout | None:
        """Whom in a context the tokens of each sample see; None for all of it."""
        if self.samples is None or context.samples is None:
            return None
        held = [(i, length) for i, length in enumerate(self.samples) if length]
        lengths = tuple(length for _, length in held)
        return AttentionLayout(lengths, tuple((i,) for i, _ in held), context.samples)


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys (normalised across heads).

    Args:
        width: D.
        heads: number of heads; must divide D.
        eps: of the normalisation.
    """

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        # A list of one, because "to_out.0" is the name that weights and adapters use.
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.norm_q = RMSNorm(width, eps)
        self.norm_k = RMSNorm(width, eps)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def forward(
        self, tokens: Tensor, around: Surroundings, context: Context | None = None
    ) -> Tensor:
        """Self-attention, or attention to `context` if one is given.

        Args:
            tokens: (B, N, D).
            around: kernel, layout and rotation.
            context: what to attend to; None is the tokens themselves.

        Returns:
            (B, N, D).
        """
        q = self._split(self.norm_q(self.to_q(tokens)))
        if context is not None:
            return self.to_out[0](self.read(q, context, around).flatten(2))
        k = self._split(self.norm_k(self.to_k(tokens)))
        v = self._split(self.to_v(tokens))
        q, k = rotate(q, around.rotation), rotate(k, around.rotation)
        if around.share is not None:
            q, k, v = around.share.to_heads(q, k, v)
        out = attention(q, k, v, around.layout, around.valid, around.kernel)
        if around.share is not None:
            out = around.share.to_tokens(out)
        return self.to_out[0](out.flatten(2))

    def read(self, q: Tensor, context: Context, around: Surroundings) -> Tensor:
        """Attend to a context.

        Args:
            q: (B, N, heads, head width).
            context: tokens (B, L, D).
            around: the kernel.

        Returns:
            (B, N, heads, head width), before the output projection.
        """
        k = self._split(self.norm_k(self.to_k(context.tokens)))
        v = self._split(self.to_v(context.tokens))
        return attention(q, k, v, around.towards(context), context.valid, around.kernel)


class DualAttention(Attention):
    """Attention to a context and, through keys and values of its own, to one of its streams.

    Queries and output projection are shared and the two results are summed before the latter, as in
    Wan's image-to-video models. Their values start at zero: the stream then changes nothing.

    Args:
        width: D.
        heads: number of heads; must divide D.
        eps: of the normalisation.
        stream: name of the stream.
    """

    def __init__(self, width: int, heads: int, eps: float, stream: str) -> None:
        super().__init__(width, heads, eps)
        self.stream = stream
        self.add_k_proj = nn.Linear(width, width)
        self.add_v_proj = nn.Linear(width, width)
        self.norm_added_k = RMSNorm(width, eps)
        self.init_added()

    def init_added(self) -> None:
        """Draw the keys of the stream anew and set its values to zero."""
        self.add_k_proj.reset_parameters()
        nn.init.ones_(self.norm_added_k.weight)
        nn.init.zeros_(self.add_v_proj.weight)
        nn.init.zeros_(self.add_v_proj.bias)

    def read(self, q: Tensor, context: Context, around: Surroundings) -> Tensor:
        """Attend to a context and its stream.

        Args:
            q: (B, N, heads, head width).
            context: tokens (B, L, D); without the stream, it is all there is.
            around: the kernel.

        Returns:
            (B, N, heads, head width), before the output projection.
        """
        out = super().read(q, context, around)
        added = context.streams.get(self.stream)
        if added is None:
            return out
        k = self._split(self.norm_added_k(self.add_k_proj(added.tokens)))
        v = self._split(self.add_v_proj(added.tokens))
        return out + attention(q, k, v, around.towards(added), added.valid, around.kernel)


class _GELUProjection(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Linear, GELU (tanh), Linear; named `net.0.proj` and `net.2`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [_GELUProjection(width, hidden), nn.Identity(), nn.Linear(hidden, width)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        return self.net[2](self.net[0](x))
