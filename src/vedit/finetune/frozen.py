"""Train nothing."""

from collections.abc import Mapping

from torch import Tensor, nn

from vedit.finetune.base import Finetune, copy_in


class Frozen(Finetune):
    """Nothing trains, and nothing is saved: the pretrained weights are the state."""

    def apply(self, module: nn.Module) -> nn.Module:
        """Freeze every parameter."""
        return module.requires_grad_(False).eval()

    def saved(self, module: nn.Module) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def restore(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Refuse tensors, for there are none to restore."""
        copy_in(module, tensors, {})
