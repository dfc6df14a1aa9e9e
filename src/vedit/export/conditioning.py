"""What other tools have no place for: injections, and encoders that diffusers does not know."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from vedit.context.umt5 import UMT5
from vedit.finetune.frozen import Frozen
from vedit.system import EditSystem

FOLDER = "conditioning"


def conditioning_tensors(system: EditSystem) -> dict[str, Tensor]:
    """The injections' weights, and those of a context encoder that is no text encoder of Wan's.

    Of such an encoder the connector is taken, and the tower if it trained or was never loaded.

    Args:
        system: built, its adapters merged.

    Returns:
        Tensors by the keys of a checkpoint, as `model.init_from` reads them.
    """
    assert system.model is not None
    parts: dict[str, nn.Module] = {"model.injections": system.model.injections}
    context = system.context
    if context is not None and not isinstance(context, UMT5):
        parts["context.connector"] = context.connector
        if context.weights is None or not isinstance(system.finetune.tower, Frozen):
            parts["context.tower"] = context.tower
    return {
        f"{prefix}.{name}": value.detach().cpu()
        for prefix, module in parts.items()
        for name, value in module.state_dict().items()
    }


def write_conditioning(folder: Path, found: dict[str, Tensor]) -> Path | None:
    """Write those tensors as a folder that `model.init_from` reads.

    Args:
        folder: of the export.
        found: from `conditioning_tensors`.

    Returns:
        The folder inside it; None if there is nothing to write.
    """
    from safetensors.torch import save_file

    if not found:
        return None
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in found.items()}, place / "model.safetensors")
    return place
