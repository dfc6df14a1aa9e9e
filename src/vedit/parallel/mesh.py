"""Who holds which weights, which samples and which tokens.

Processes form a mesh of three dimensions, `replicate` x `shard` x `context`, in this order, so that
the ranks of a context group are neighbours. Every (replicate, shard) pair has samples of its own;
the ranks of one context group share theirs and each hold a part of its tokens. Weights are shared
out over `shard` and `context` together, since both compute with the same ones, and are whole once
more for every step along `replicate`.

Each rank's gradient is that of its own tokens of its own samples. Whoever shares tokens out scales
so that the mean over all ranks is the gradient of the mean loss; nothing here needs to know how.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import distributed
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from vedit.errors import ConfigError

DIMENSIONS = ("replicate", "shard", "context")
Size: TypeAlias = int | Literal["auto"]


@dataclass(frozen=True)
class MeshSizes:
    """How many ranks each dimension of the mesh has.

    Attributes:
        replicate: copies of the weights.
        shard: groups of other samples that share a copy.
        context: ranks that share the tokens of a sample, and a copy too.
    """

    replicate: int = 1
    shard: int = 1
    context: int = 1

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.replicate * self.shard * self.context

    @property
    def data(self) -> int:
        """Ranks that have samples of their own, times one for each context group."""
        return self.replicate * self.shard


def fit_sizes(
    world: int,
    node: int,
    *,
    replicate: Size = 1,
    shard: Size = "auto",
    context: int = 1,
    where: str = "trainer.strategy",
) -> MeshSizes:
    """The sizes of a mesh, those that are left open chosen to fill it.

    With both open, weights are shared out within a node and copied from node to node.

    Args:
        world: ranks in all.
        node: ranks of one node.
        replicate: copies of the weights.
        shard: groups that share a copy.
        context: ranks that share the tokens of a sample.
        where: the key, for messages.

    Returns:
        Sizes whose product is `world`.

    Raises:
        ConfigError: if there are none.
    """
    for name, size in (("replicate", replicate), ("shard", shard), ("context", context)):
        if not isinstance(size, str) and size < 1:
            raise ConfigError(f"{where}: {name} is {size}, expected 1 or more")
    asked = f"replicate {replicate} x shard {shard} x context {context}"
    if isinstance(shard, str):
        rest = node if isinstance(replicate, str) else world // replicate
        shared = max(1, rest // context)
    else:
        shared = shard
    copies = max(1, world // (shared * context)) if isinstance(replicate, str) else replicate
    sizes = MeshSizes(copies, shared, context)
    if sizes.world != world:
        raise ConfigError(
            f"{where}: {asked} makes {sizes.world} processes, but trainer.devices x "
            f"trainer.num_nodes is {world}; the sizes must multiply to that"
        )
    return sizes


@dataclass(frozen=True)
class ParallelPlan:
    """What one rank has to do with which others.

    Attributes:
        sizes: of the mesh.
        mesh: over all ranks, its dimensions named replicate, shard and context.
        weights: mesh that sharded weights lie on, named replicate and weights, the latter being
            shard and context in one; without replicate where there is one copy.
        rank: of this process among all.
    """

    sizes: MeshSizes
    mesh: DeviceMesh
    weights: DeviceMesh
    rank: int

    @property
    def data_rank(self) -> int:
        """Which samples this rank has; the ranks of a context group have the same ones."""
        return self.rank // self.sizes.context

    @property
    def data_ranks(self) -> int:
        """How many share the samples of a global batch."""
        return self.sizes.data

    @property
    def context_group(self) -> ProcessGroup | None:
        """The ranks that share this rank's tokens; None if it has them to itself."""
        return self.mesh.get_group("context") if self.sizes.context > 1 else None


def build_plan(sizes: MeshSizes, device: str) -> ParallelPlan:
    """Arrange the processes; all of them call it, after `init_process_group`.

    Args:
        sizes: whose product is the number of processes.
        device: type of the device, "cuda" or "cpu".

    Returns:
        The plan as this rank sees it.
    """
    shape = (sizes.replicate, sizes.shard, sizes.context)
    mesh = init_device_mesh(device, shape, mesh_dim_names=DIMENSIONS)
    inner = sizes.shard * sizes.context
    if sizes.replicate == 1:
        weights = init_device_mesh(device, (inner,), mesh_dim_names=("weights",))
    else:
        both = (sizes.replicate, inner)
        weights = init_device_mesh(device, both, mesh_dim_names=("replicate", "weights"))
    return ParallelPlan(sizes, mesh, weights, distributed.get_rank())
