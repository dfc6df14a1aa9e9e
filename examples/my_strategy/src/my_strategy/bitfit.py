"""Finetuning of offsets and scales alone."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

from torch import Tensor, nn

from vedit.errors import ConfigError
from vedit.finetune.base import Finetune, copy_in


class BitFit(Finetune):
    """Train biases, norms and modulation tables; every matrix stays as it is.

    BitFit (Ben Zaken et al. 2022, section 3) trains biases. A Wan transformer keeps the scales and
    offsets of its norms in `scale_shift_table`, which belong to them. About one parameter in a
    thousand trains, and a checkpoint is that small.

    Args:
        trains: patterns (`*` is anything) of which a part of a parameter's name must match one.
    """

    def __init__(self, trains: Sequence[str] = ("bias", "norm*", "scale_shift_table")) -> None:
        self.patterns = tuple(trains)

    def apply(self, module: nn.Module) -> nn.Module:
        """Freeze all but what the patterns name.

        Args:
            module: one part of an editor.

        Returns:
            The module, changed in place.

        Raises:
            ConfigError: if no parameter has such a name.
        """
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(self._trains(name))
        if not any(parameter.requires_grad for parameter in module.parameters()):
            kind, wanted = type(module).__name__, ", ".join(self.patterns)
            raise ConfigError(f"BitFit trains: no parameter of {kind} is named {wanted}.")
        return module

    def saved(self, module: nn.Module) -> dict[str, Tensor]:
        """What trains, by the module's own names."""
        return {name: t for name, t in module.state_dict().items() if self._trains(name)}

    def restore(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Copy what `saved` returned back in."""
        copy_in(module, tensors, self.saved(module))

    def _trains(self, name: str) -> bool:
        return any(fnmatch(part, p) for part in name.split(".") for p in self.patterns)
