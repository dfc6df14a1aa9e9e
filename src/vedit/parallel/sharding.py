"""Share out the weights of a model, each unit gathered whole while it computes (FSDP2).

A unit is what is gathered at once: each block of a backbone, and the model around them with what
is left. Only modules that are entered by their forward can be units, since that is what gathers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from vedit.errors import ConfigError

Number: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Sharding:
    """How weights are shared out.

    Attributes:
        frozen: "replicated" keeps weights that do not train whole on every rank, which costs their
            memory and saves gathering them twice a step; "sharded" shares them out as well.
        compute: number format that weights are gathered and computed in; None is the one they
            have. Optimiser and checkpoints keep the latter.
        reduce: number format in which gradients are averaged; None is that of the gradients.
        reshard_after_forward: free a block's gathered weights after its forward and gather them
            again in the backward pass, or keep them in between.
    """

    frozen: Literal["sharded", "replicated"] = "sharded"
    compute: Number | None = None
    reduce: Number | None = None
    reshard_after_forward: bool = True

    def policy(self) -> MixedPrecisionPolicy:
        """The number formats; inputs stay as they are, noise levels have to be float32."""
        return MixedPrecisionPolicy(
            param_dtype=dtype_of(self.compute),
            reduce_dtype=dtype_of(self.reduce),
            cast_forward_inputs=False,
        )


def dtype_of(name: Number | None) -> torch.dtype | None:
    """The number format of a name."""
    found: torch.dtype | None = None if name is None else getattr(torch, name)
    return found


def shard(
    root: nn.Module, units: Iterable[nn.Module], mesh: DeviceMesh, sharding: Sharding
) -> None:
    """Share out a model in place; its parameters become pieces that know the whole.

    Args:
        root: the model; what no unit holds is gathered when its forward begins.
        units: modules inside it, each gathered by itself, inner ones first.
        mesh: one dimension that weights are shared over, or two of which the first replicates.
        sharding: how.

    Raises:
        ConfigError: if weights of one unit that train differ in number format.
    """
    if isinstance(root, FSDPModule):
        return
    kept = sharding.frozen == "replicated"
    ignored = {p for p in root.parameters() if kept and not p.requires_grad}
    for unit in units:
        _shard_unit(unit, mesh, sharding, ignored, sharding.reshard_after_forward)
    _shard_unit(root, mesh, sharding, ignored, None)


def _shard_unit(
    unit: nn.Module,
    mesh: DeviceMesh,
    sharding: Sharding,
    ignored: set[nn.Parameter],
    reshard_after_forward: bool | None,
) -> None:
    own = [p for p in unit.parameters() if p not in ignored]
    if not own:
        return
    dtypes = {str(p.dtype).removeprefix("torch.") for p in own if p.requires_grad}
    if len(dtypes) > 1:
        raise ConfigError(
            f"trainer.strategy: {type(unit).__name__} trains weights in "
            f"{' and '.join(sorted(dtypes))}; those gathered together need one number format"
        )
    fully_shard(
        unit,
        mesh=mesh,
        reshard_after_forward=reshard_after_forward,
        mp_policy=sharding.policy(),
        ignored_params=ignored,
    )
