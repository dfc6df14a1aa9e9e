"""Published weights for blocks that use more or less than they hold.

A block says which names it has no use for (`Block.unused`) and which of its own a checkpoint may
lack (`Block.fresh`); everything else is loaded strictly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vedit.backbones.base import Half, input_half
from vedit.backbones.blocks import Block
from vedit.errors import WeightsError

log = logging.getLogger(__name__)

INPUT = "patch_embedding.weight"


@dataclass(frozen=True)
class Fitted:
    """A checkpoint made to fit a stack of blocks.

    Attributes:
        tensors: by the names of the backbone.
        unused: names of the checkpoint that no block uses.
        fresh: names of the backbone that the checkpoint lacks; their tensors are initialised.
    """

    tensors: Mapping[str, Tensor]
    unused: tuple[str, ...]
    fresh: tuple[str, ...]

    def summary(self, where: str) -> str:
        """One line for the log.

        Args:
            where: the folder.

        Returns:
            Counts of tensors, with the kinds of those that were left out or are new.
        """
        line = f"{where}: {len(self.tensors) - len(self.fresh)} tensors loaded"
        if self.unused:
            line += f"; {len(self.unused)} unused by these blocks ({_kinds(self.unused)})"
        if self.fresh:
            line += f"; {len(self.fresh)} new, without effect at the start ({_kinds(self.fresh)})"
        return line


def fit(blocks: nn.ModuleList, given: Mapping[str, Tensor]) -> Fitted:
    """Leave out what the blocks do not use, and start what the checkpoint lacks.

    Args:
        blocks: of the backbone, named "blocks" in it; may be on the meta device. Those that lack
            `Block.fresh` tensors are given them, on the CPU.
        given: the checkpoint, by names such as "blocks.0.attn1.to_q.weight".

    Returns:
        The tensors to load strictly.
    """
    members = dict(_blocks(blocks))
    unused = [name for name in given if _matches(name, members, "unused")]
    tensors = {name: value for name, value in given.items() if name not in set(unused)}
    names = [f"blocks.{i}.{n}" for i, block in members.items() for n in block.state_dict()]
    fresh = [name for name in names if _matches(name, members, "fresh")]
    if any(name in given for name in fresh):
        fresh = []  # a checkpoint of this kind of block, which must then be complete
    if fresh:
        for i, block in members.items():
            tensors |= {f"blocks.{i}.{n}": tensor for n, tensor in _started(block).items()}
    return Fitted(tensors, tuple(unused), tuple(fresh))


def with_input_half(
    given: Mapping[str, Tensor], channels: int, half: Half | None, where: str
) -> dict[str, Tensor]:
    """The checkpoint with an input convolution over `channels` channels.

    Args:
        given: the checkpoint.
        channels: C of the backbone.
        half: which channels of a wider convolution to keep; None keeps it whole.
        where: the folder, for messages.

    Returns:
        The same tensors, but for that of the convolution.

    Raises:
        WeightsError: if the convolution is too narrow for `half`, or wide and no half is asked for.
    """
    weight = given.get(INPUT)
    if weight is None:
        return dict(given)
    if half is not None:
        return {**given, INPUT: input_half(weight, channels, half, where)}
    if weight.shape[1] >= 2 * channels:
        raise WeightsError(
            f"{where}: its input convolution takes {weight.shape[1]} channels, this backbone "
            f"{channels}; set model.backbone.init_args.input_half to first, and give the second "
            "half to the source's embedding (ConcatChannels with weights and weights_slice)."
        )
    return dict(given)


def _blocks(blocks: nn.ModuleList) -> Iterator[tuple[str, Block]]:
    for i, block in enumerate(blocks):
        if isinstance(block, Block):
            yield str(i), block


def _matches(name: str, members: Mapping[str, Block], kind: str) -> bool:
    """Whether a name lies inside a block and begins as one of `Block.unused` or `Block.fresh`."""
    head, _, rest = name.partition(".")
    index, _, inside = rest.partition(".")
    if head != "blocks" or index not in members:
        return False
    return inside.startswith(tuple(getattr(members[index], kind)))


def _started(block: Block) -> dict[str, Tensor]:
    """The parameters that `block.fresh` names, initialised, by their names in the block."""
    names = [n for n, _ in block.named_parameters() if n.startswith(block.fresh)]
    for name in names:
        owner, _, attribute = name.rpartition(".")
        old = block.get_parameter(name)
        if old.is_meta:
            empty = nn.Parameter(torch.empty_like(old, device="cpu"), old.requires_grad)
            setattr(block.get_submodule(owner), attribute, empty)
    block.init_fresh()
    return {name: block.get_parameter(name).detach() for name in names}


def _kinds(names: tuple[str, ...]) -> str:
    """The modules inside a block that names belong to, such as "attn2.to_q, norm2"."""
    inside = (name.split(".", 2)[2].rpartition(".")[0] for name in names)
    return ", ".join(dict.fromkeys(inside))
