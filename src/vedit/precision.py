"""What `trainer.precision: bf16-true` means: the weights of what trains, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.plugins.precision import HalfPrecision, Precision
from torch import nn


class HalfWeights(HalfPrecision):
    """Weights in half precision; batches, noise, noise levels and losses in float32.

    Lightning's own plugin converts every batch, which our frozen records forbid, and lets tensors
    that a step makes, such as noise, be half as well. The codec and the tower of a context encoder
    have a type of their own in the configuration; it stays.
    """

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Convert the model and the connector of the context encoder.

        Args:
            module: an `Assembly`, built.

        Returns:
            The same.
        """
        for part in (module.model, getattr(module.context, "connector", None)):
            if isinstance(part, nn.Module):
                part.to(self._desired_input_dtype)
        return module

    def convert_input(self, data: Any) -> Any:
        """A batch as it is; `EditModel` converts what it is given."""
        return data

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Leave the default type alone."""
        yield


def adapted(plugin: Precision) -> Precision:
    """The plugin that does here what another one does elsewhere.

    Args:
        plugin: of a trainer.

    Returns:
        `HalfWeights` for Lightning's true half precision, any other plugin as it is.
    """
    return HalfWeights(plugin.precision) if type(plugin) is HalfPrecision else plugin
