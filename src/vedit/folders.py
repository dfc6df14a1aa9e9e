"""Where folders of weights are: here, in this repository, or on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from vedit.errors import WeightsError, nearest

ROOT = Path(__file__).parents[2]
"""The root of this repository, where `nano/` lies."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w")


def is_hub_id(text: str | Path) -> bool:
    """Whether a text means a whole model on the hub: ``org/name``, and nothing of that name here.

    Args:
        text: a path or a hub id.

    Returns:
        False where the first part is a folder here, so that a wrong name in it is no hub id.
    """
    text = str(text)
    first = text.partition("/")[0]
    there = any((place / first).exists() for place in (Path(), ROOT))
    return HUB_ID.fullmatch(text) is not None and not there


def model_folder(path_or_hub_id: str | Path) -> Path:
    """The folder of a whole model: fetched if it is a hub id, or else as it is named.

    Args:
        path_or_hub_id: of a run, a file, a folder or a model on the hub.

    Returns:
        The path; it need not exist unless it was fetched.

    Raises:
        WeightsError: the hub has no such model, or cannot be reached.
    """
    return resolve_folder(path_or_hub_id) if is_hub_id(path_or_hub_id) else Path(path_or_hub_id)


def resolve_folder(path_or_hub_id: str | Path, subfolder: str | None = None) -> Path:
    """The local folder of a checkpoint, fetched from the hub if need be.

    Args:
        path_or_hub_id: a folder, relative to the current directory or else to the root of this
            repository; or a hub id such as ``org/name``, with more parts for a folder inside it:
            ``org/name/transformer``. A folder that exists wins.
        subfolder: folder inside it.

    Returns:
        An existing folder.

    Raises:
        WeightsError: there is no such folder, and the hub has none or cannot be reached.
    """
    local = Path(path_or_hub_id).expanduser()
    first = Path(*local.parts[:1])
    if (ROOT / local).exists() or (ROOT / first).exists() and not first.exists():
        local = local if local.exists() else ROOT / local
    if local.exists():
        return _existing(local / subfolder if subfolder else local)
    parts = str(path_or_hub_id).split("/")
    is_path = local.is_absolute() or parts[0] in {".", "..", "~"} or Path(parts[0]).exists()
    if is_path or len(parts) < 2 or not all(parts):
        return _existing(local)
    inside = "/".join([*parts[2:], *([subfolder] if subfolder else [])])
    return _existing(_from_hub("/".join(parts[:2]), inside) / inside)


def _existing(folder: Path) -> Path:
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise WeightsError(f"{folder}: is a file, expected the folder that holds it.")
    ancestor = folder.parent
    while not ancestor.is_dir() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    wanted = folder.relative_to(ancestor).parts[0]
    siblings = [child.name for child in ancestor.iterdir() if child.is_dir()]
    hint = nearest(wanted, siblings)
    looked = "" if folder.is_absolute() else f" (looked in {Path.cwd()} and {ROOT})"
    raise WeightsError(f"{folder}: no such folder{looked}; {ancestor} has no '{wanted}'.{hint}")


def _from_hub(repository: str, inside: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    prefix = f"{inside}/" if inside else ""
    kinds = ("*.json", "*.safetensors", "*.model", "*.txt")
    try:
        snapshot = snapshot_download(repository, allow_patterns=[prefix + kind for kind in kinds])
    except HFValidationError as error:
        raise WeightsError(f"{repository}: no such folder, and no valid hub id either.") from error
    except LocalEntryNotFoundError as error:
        raise WeightsError(
            f"{repository}: no such folder, and as a hub id it is neither cached nor reachable "
            "(offline?); fetch it where there is a network, or give the path of a local folder."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WeightsError(
            f"{repository}: no such folder, and the hub did not give it: {reason}"
        ) from error
    return Path(snapshot)


def lacks_part(path_or_hub_id: str) -> bool:
    """Whether a checkpoint is there, and the part of it that is named holds no weights.

    Args:
        path_or_hub_id: folder of the part, or hub id with the part behind it.

    Returns:
        False also where the checkpoint itself is not to be found.
    """
    local = Path(path_or_hub_id).expanduser()
    if len(local.parts) < 2:
        return False
    for path in (local, ROOT / local):
        if path.is_dir():
            return not any(path.glob("*.safetensors*"))
        if path.parent.is_dir():
            return not path.exists()
    parts = str(path_or_hub_id).split("/")
    if len(parts) < 3 or local.is_absolute() or not is_hub_id("/".join(parts[:2])):
        return False
    inside = "/".join(parts[2:])
    try:
        folder = _from_hub("/".join(parts[:2]), inside) / inside
    except WeightsError:
        return False
    return not any(folder.glob("*.safetensors*"))
