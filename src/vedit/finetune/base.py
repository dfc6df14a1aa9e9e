"""What a finetuning method is to the rest of the package."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vedit.errors import WeightsError


class Finetune(ABC):
    """Decides what trains of a module.

    `saved` and `restore` are inverse to each other: a checkpoint holds what trains, nothing else.
    """

    @abstractmethod
    def apply(self, module: nn.Module) -> nn.Module:
        """Freeze or adapt a module, after its weights are loaded and before it is sharded.

        Args:
            module: one part of an editor.

        Returns:
            The module, changed in place.

        Raises:
            ConfigError: if the method does not suit the module.
        """

    @abstractmethod
    def saved(self, module: nn.Module) -> dict[str, Tensor]:
        """The tensors that train, and those that training changes, by name."""

    @abstractmethod
    def restore(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Put what `saved` returned back into an applied module.

        Args:
            module: what `apply` returned.
            tensors: what `saved` returned.

        Raises:
            WeightsError: if a tensor is missing, unexpected or of another shape.
        """


def copy_in(module: nn.Module, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Copy tensors into those of `wanted`, which are the module's own, strictly.

    Args:
        module: whose class the message names.
        tensors: what to copy.
        wanted: where to, by the same names.

    Raises:
        WeightsError: if a name is missing or unexpected, or a shape differs.
    """
    where = type(module).__name__
    missing, unexpected = sorted(wanted.keys() - tensors), sorted(tensors.keys() - wanted)
    if missing or unexpected:
        raise WeightsError(
            f"checkpoint of {where}: {len(missing)} tensors missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])}); was it saved with "
            "another finetune method?"
        )
    with torch.no_grad():
        for name, target in wanted.items():
            if target.shape != tensors[name].shape:
                raise WeightsError(
                    f"checkpoint of {where}: {name} is {tuple(tensors[name].shape)}, expected "
                    f"{tuple(target.shape)}."
                )
            value = tensors[name]
            if isinstance(target, DTensor) and not isinstance(value, DTensor):
                mesh, placements = target.device_mesh, target.placements
                value = distribute_tensor(value.to(target.device), mesh, placements)
            target.copy_(value)
