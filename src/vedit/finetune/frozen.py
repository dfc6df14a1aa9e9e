"""Train nothing."""

from collections.abc import Mapping

from torch import Tensor, nn

from vedit.finetune.base import Finetune, copy_in
from vedit.finetune.storage import Storage
from vedit.finetune.stored_linear import store


class Frozen(Finetune):
    """Nothing trains, and nothing is saved: the pretrained weights are the state.

    Args:
        base: fewer bits for the weights, such as `BFloat16`, `Float8` or `NF4`; null leaves them as
            they were loaded.
    """

    def __init__(self, base: Storage | None = None) -> None:
        self.base = base

    def apply(self, module: nn.Module) -> nn.Module:
        """Freeze every parameter."""
        module.requires_grad_(False).eval()
        return module if self.base is None else store(module, self.base)

    def saved(self, module: nn.Module) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def restore(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Refuse tensors, for there are none to restore."""
        copy_in(module, tensors, {})
