"""Compilation of a backbone, block by block.

The blocks of a backbone have one code: compiled in place, the first call compiles it and the
others reuse it, where a whole model would be compiled at full length. A block reads tensors and
host numbers alone (`vedit.backbones.layers.Surroundings`): real rotations, noise levels as rows,
attention as one opaque call.
"""

from typing import Literal

import torch

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
    """

    def __init__(
        self,
        dynamic: bool | None = None,
        mode: Literal["default", "max-autotune-no-cudagraphs"] = "default",
        backend: Backend = "inductor",
    ) -> None:
        self.dynamic, self.mode, self.backend = dynamic, mode, backend

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
        mode = self.mode if self.backend == "inductor" else None
        for block in backbone.blocks:
            block.compile(fullgraph=True, dynamic=self.dynamic, mode=mode, backend=self.backend)
        backbone.compiled = True
