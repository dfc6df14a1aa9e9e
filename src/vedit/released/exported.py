"""Settings that lie beside exported weights, so that vedit reads its own exports exactly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vedit.errors import WeightsError
from vedit.released.part import Tree

FILE = "vedit.yaml"
HERE = "./"
"""Begins paths inside the exported folder."""


@dataclass(frozen=True)
class Settings:
    """What lies beside exported weights.

    Attributes:
        model: the model part of a configuration.
        size: frames, height and width of the clips it was trained on, None if unknown.
        reference: how reference images come to that size, as `data.reference` says it.
    """

    model: Tree
    size: tuple[int, int, int] | None = None
    reference: Tree | None = None


def write_settings(folder: Path, settings: Settings) -> Path:
    """Write settings beside the weights.

    Args:
        folder: of the export.
        settings: paths inside the folder begin with "./".

    Returns:
        The file.
    """
    import yaml

    tree = {**asdict(settings), "size": None if settings.size is None else list(settings.size)}
    path = folder / FILE
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def read_settings(folder: Path) -> Settings | None:
    """What `write_settings` wrote, with whole paths.

    Args:
        folder: of the export.

    Returns:
        The settings; None if there are none.

    Raises:
        WeightsError: if they cannot be read.
    """
    import yaml

    path = folder / FILE
    if not path.is_file():
        return None
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        model, size, reference = tree["model"], tree.get("size"), tree.get("reference")
        whole = None if size is None else (int(size[0]), int(size[1]), int(size[2]))
    except (yaml.YAMLError, TypeError, KeyError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path}: no settings of an exported model ({reason}).") from error
    return Settings(_placed(model, folder), whole, reference)


def _placed(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _placed(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_placed(item, folder) for item in value]
    if isinstance(value, str) and value.startswith(HERE):
        return str(folder / value[len(HERE) :])
    return value
