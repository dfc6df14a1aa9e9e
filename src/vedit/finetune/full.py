"""Train every parameter."""

from collections.abc import Mapping

from torch import Tensor, nn

from vedit.finetune.base import Finetune, copy_in


class Full(Finetune):
    """Every parameter trains, and the whole state is saved."""

    def apply(self, module: nn.Module) -> nn.Module:
        """Let every parameter train."""
        return module.requires_grad_(True)

    def saved(self, module: nn.Module) -> dict[str, Tensor]:
        """The state of the module, by its own names."""
        return dict(module.state_dict())

    def restore(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Copy the state in."""
        copy_in(module, tensors, module.state_dict())
