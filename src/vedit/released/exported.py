"""Settings that lie beside exported weights, so that vedit reads its own exports exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vedit.errors import WeightsError
from vedit.released.part import Tree

FILE = "vedit.yaml"
HERE = "./"
"""Begins paths inside the exported folder."""


def write_settings(folder: Path, model: Tree, size: Sequence[int] | None) -> Path:
    """Write the model part of a configuration beside the weights.

    Args:
        folder: of the export.
        model: arguments of `EditSystem`, paths inside the folder beginning with "./".
        size: frames, height and width of the clips it was trained on, None if unknown.

    Returns:
        The file.
    """
    import yaml

    tree = {"model": model, "size": None if size is None else list(size)}
    path = folder / FILE
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def read_settings(folder: Path) -> tuple[Tree, tuple[int, int, int] | None] | None:
    """What `write_settings` wrote, with whole paths.

    Args:
        folder: of the export.

    Returns:
        Model part and size; None if there are no settings.

    Raises:
        WeightsError: if they cannot be read.
    """
    import yaml

    path = folder / FILE
    if not path.is_file():
        return None
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        model, size = tree["model"], tree.get("size")
        whole = None if size is None else (int(size[0]), int(size[1]), int(size[2]))
    except (yaml.YAMLError, TypeError, KeyError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path}: no settings of an exported model ({reason}).") from error
    return _placed(model, folder), whole


def _placed(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _placed(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_placed(item, folder) for item in value]
    if isinstance(value, str) and value.startswith(HERE):
        return str(folder / value[len(HERE) :])
    return value
