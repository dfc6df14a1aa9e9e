"""What a block keeps in memory between its forward and its backward pass, by formula.

The formulas follow the eager computation of `vedit.backbones.blocks`; a compiler may keep less.
With N tokens, L context tokens, width D, hidden width f, H heads and b bytes a number, a block of
Wan with everything trained keeps `N D (16 b + 4) + 2 N f b + 8 N H`, its share of the context
apart: see `kept_by`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from vedit.backbones.flops import OF_CONTEXT


@dataclass(frozen=True)
class BlockSizes:
    """Sizes of a block and of what it is given on one rank.

    Attributes:
        tokens: N, of all samples of a batch; divided by the ranks that share a sequence.
        context: L, of all samples; 0 leaves cross-attention out.
        width: D.
        hidden: f.
        heads: H.
        number: b, bytes of an activation: 2 in bfloat16.
    """

    tokens: int
    context: int
    width: int
    hidden: int
    heads: int
    number: int = 2


@dataclass(frozen=True)
class Reads:
    """Which inputs of linear layers and gates the gradients of weights are made from.

    Attributes:
        attention: input of the queries, keys and values of self-attention.
        cross: input of the queries of cross-attention.
        feed_forward: input of the first layer of the feed-forward.
        hidden: input of its second layer.
        updates: what the two gates multiply.
        ranks: of all adapters that read tokens, added up.
        context_ranks: of all adapters that read the context.
        weights: numbers in the weights of attention that are converted for a product.
        hidden_weights: the same in the feed-forward layers.
    """

    attention: bool = True
    cross: bool = True
    feed_forward: bool = True
    hidden: bool = True
    updates: bool = True
    ranks: int = 0
    context_ranks: int = 0
    weights: int = 0
    hidden_weights: int = 0


@dataclass(frozen=True)
class Kept:
    """Bytes that a block keeps if nothing is computed again.

    Attributes:
        input: the tokens given to it.
        attention: result and logarithms of sums of self-attention.
        hidden: what is f wide, and the weights of the feed-forward layers where converted.
        before_hidden: input of the feed-forward layers where no gradient reads it, which computing
            them again does.
        rest: everything else.
    """

    input: float
    attention: float
    hidden: float
    before_hidden: float
    rest: float

    @property
    def total(self) -> float:
        """All that is kept if nothing is computed again."""
        return self.input + self.attention + self.hidden + self.rest


def kept_by(sizes: BlockSizes, reads: Reads) -> Kept:
    """What a block keeps.

    In N D numbers: input 1; inputs of layers that train 1 each; self-attention 2 before its
    normalisations, 3 of queries, keys and values, 1 result; cross-attention 2 + 1, and 1 in float32
    before its normalisation; tokens before the feed-forward 1; what each gate multiplies 1. Besides
    logarithms of sums (4 H N, twice), statistics of six normalisations (4 N each), and where
    products convert weights, the converted ones, which take 2 bytes a number.

    Args:
        sizes: of the block.
        reads: what its training needs.

    Returns:
        Bytes on one rank.
    """
    n, d, b = sizes.tokens, sizes.width, sizes.number
    tokens, sums = n * d * b, 4 * n * sizes.heads
    rest = tokens * (reads.attention + 5 + reads.feed_forward + 1 + 2 * reads.updates)
    rest += 4 * n * 6 + n * reads.ranks * b + 2 * reads.weights
    if sizes.context:
        rest += 4 * n * d + tokens * (reads.cross + 3) + sums + 4 * n * 3
        rest += sizes.context * (3 * d + reads.context_ranks) * b
    return Kept(
        input=tokens,
        attention=tokens + sums,
        hidden=(1 + reads.hidden) * n * sizes.hidden * b + 2 * reads.hidden_weights,
        before_hidden=0 if reads.feed_forward else tokens,
        rest=rest,
    )


def reads_of(block: nn.Module, converts: bool = False) -> Reads:
    """What training a block needs, from which of its parameters train.

    Args:
        block: with the names of Wan's, adapted or not, on any device.
        converts: whether products convert float32 weights, as automatic mixed precision does.

    Returns:
        For `kept_by`.
    """
    trains = [name for name, p in block.named_parameters() if p.requires_grad]
    weights = dict.fromkeys((True, False), 0)
    for name, parameter in block.named_parameters():
        if converts and parameter.dim() == 2 and parameter.element_size() == 4:
            weights[name.startswith("ffn.")] += parameter.numel()
    ranks = dict.fromkeys((True, False), 0)
    for name, parameter in block.named_parameters():
        if ".lora_A." in name:
            ranks[bool(OF_CONTEXT.search(f".{name}"))] += parameter.shape[0]

    def some(*starts: str) -> bool:
        return any(name.startswith(starts) for name in trains)

    return Reads(
        attention=some("attn1.to_q", "attn1.to_k", "attn1.to_v"),
        cross=some("attn2.to_q"),
        feed_forward=some("ffn.net.0"),
        hidden=some("ffn.net.2"),
        updates=some("scale_shift_table"),
        ranks=ranks[False],
        context_ranks=ranks[True],
        weights=weights[False],
        hidden_weights=weights[True],
    )


def workspace(sizes: BlockSizes) -> float:
    """Bytes that the backward pass of a block takes for a moment, beyond what was kept.

    At its largest: gradients of both sides of the activation function, of the tokens, and a
    normalisation in float32, in and out.
    """
    n, b = sizes.tokens, sizes.number
    return n * (2 * sizes.hidden * b + 2 * sizes.width * b + 8 * sizes.width)


def shared(sizes: BlockSizes, ranks: int) -> BlockSizes:
    """The sizes on one of the ranks that share a sequence, each with a part of the tokens.

    Args:
        sizes: of a rank that has the whole.
        ranks: how many share it.

    Returns:
        Fewer tokens, rounded up, and the same context.
    """
    return replace(sizes, tokens=-(-sizes.tokens // ranks))
