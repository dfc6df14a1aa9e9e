"""Compilation of a backbone, block by block.

The blocks of a backbone have one code: compiled in place, the first call compiles it and the
others reuse it, where a whole model would be compiled at full length. A block reads tensors and
host numbers alone (`vedit.backbones.layers.Surroundings`): real rotations, noise levels as rows,
attention as one opaque call.
"""

from typing import Any, Literal

import torch
from torch._functorch import config as partitioning

from vedit.backbones.base import Backbone
from vedit.errors import ConfigError

Backend = Literal["inductor", "aot_eager", "eager"]

_VARIANTS = 64
"""Compiled versions to keep of a block. A version is one dtype, kind of condition, number of
segments, or use (training, sampling); torch's own limit of 8 is soon reached."""


class CompileBlocks:
    """Compile each transformer block in place with `torch.compile`, as one graph.

    Args:
        dynamic: whether sizes are symbols, so that buckets of other sizes need no compilation;
            null makes a size a symbol when it is seen to change, false compiles for each anew.
        mode: how hard the compiler tries; "max-autotune-no-cudagraphs" measures kernels.
        backend: "aot_eager" and "eager" stop before code is generated, for finding faults.
        keep: share of a block's activations to keep for the backward pass, of those that the
            compiler keeps by itself at 1. It computes again what costs least for its size: down to
            about 0.6 norms, rotations and activation functions, whose second time is hardly
            noticed, then matrix products by their operations, never self-attention. It is for
            blocks without `recompute`: where the backbone has one, that alone decides.

    Raises:
        ConfigError: if `keep` is not in (0, 1].
    """

    def __init__(
        self,
        dynamic: bool | None = None,
        mode: Literal["default", "max-autotune-no-cudagraphs"] = "default",
        backend: Backend = "inductor",
        keep: float = 1.0,
    ) -> None:
        if not 0 < keep <= 1:
            raise ConfigError(
                f"model.compile: keep is {keep:g}, expected a share above 0 and up to 1; to keep "
                "nothing but inputs choose model.backbone.init_args.recompute RecomputeBlocks"
            )
        self.dynamic, self.mode, self.backend, self.keep = dynamic, mode, backend, keep

    def apply(self, backbone: Backbone) -> None:
        """Compile the blocks, after their weights are loaded and adapted, before they are sharded.

        Names of parameters stay as they are. Nothing is compiled before the first call.

        Args:
            backbone: changed in place.

        Raises:
            ConfigError: if torch cannot compile on this Python.
        """
        try:
            torch.compile(lambda: None)
        except RuntimeError as error:
            raise ConfigError(f"model.compile: torch cannot compile here: {error}") from error
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
        partitioning.activation_memory_budget = self.share(backbone)  # read at the first call
        options = _options(self.mode) if self.backend == "inductor" else None
        for block in backbone.blocks:
            block.compile(
                fullgraph=True, dynamic=self.dynamic, options=options, backend=self.backend
            )
        backbone.compiled = True

    def share(self, backbone: Backbone) -> float:
        """The share of activations that the compiler is told to keep.

        What `recompute` marks leaves the compiler nothing to choose from, and torch's partitioner,
        given a share of nothing, keeps tuples that its code generator refuses.

        Args:
            backbone: its `recompute` may decide instead.

        Returns:
            `keep`, or 1 if any block computes something again.
        """
        return self.keep if all(one is None for one in backbone.recompute) else 1.0


def _options(mode: str) -> dict[str, Any]:
    from torch._inductor import list_mode_options

    from vedit.backbones.compiler_pass import KeepSelfAttention

    return {**list_mode_options(mode), "joint_custom_pre_pass": KeepSelfAttention()}
