"""What other tools have no place for: injections, and encoders that diffusers does not know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from vedit.context.umt5 import UMT5
from vedit.finetune.frozen import Frozen
from vedit.system import EditSystem

FOLDER = "conditioning"


def conditioning_tensors(system: EditSystem, text_parts: Sequence[str] = ()) -> dict[str, Tensor]:
    """The injections' weights, and those of the context encoder that the format leaves out.

    Of an encoder that is no text encoder of Wan's the connector is taken, and the tower if it
    trained or was never loaded; of Wan's the `text_parts` that trained.

    Args:
        system: built, its adapters merged.
        text_parts: "tower" or "connector", where the format has no place for Wan's.

    Returns:
        Tensors by the keys of a checkpoint, as `model.init_from` reads them.
    """
    assert system.model is not None
    parts: dict[str, nn.Module] = {"model.injections": system.model.injections}
    context, plan = system.context, system.finetune
    if isinstance(context, UMT5):
        methods = {"tower": plan.tower, "connector": plan.connector}
        trained = [part for part in text_parts if not isinstance(methods[part], Frozen)]
        parts |= {f"context.{part}": getattr(context, part) for part in trained}
    elif context is not None:
        parts["context.connector"] = context.connector
        if context.is_drawn or not isinstance(plan.tower, Frozen):
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
    save_file(_apart(found), place / "model.safetensors")
    return place


def _apart(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with memory of their own, which tied embeddings have not: the format needs it."""
    places: set[int] = set()
    kept: dict[str, Tensor] = {}
    for name, value in found.items():
        shared = value.data_ptr() in places
        places.add(value.data_ptr())
        kept[name] = value.clone() if shared else value.contiguous()
    return kept
