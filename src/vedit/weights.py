"""Pretrained weights: folders in the layout of diffusers and transformers, loaded strictly.

A folder holds a ``config.json`` and safetensors, whole (``model.safetensors`` or
``diffusion_pytorch_model.safetensors``) or in shards named by an index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vedit.errors import WeightsError

STEMS = ("diffusion_pytorch_model", "model")
SHOWN = 3  # names that a message lists before it counts the rest
CHUNK, CHUNKS = 4096, 256  # bytes that a fingerprint samples of each file


def weight_files(folder: Path, stems: Sequence[str] = STEMS) -> list[Path]:
    """The safetensors of a folder: one file, or the shards that its index names.

    Args:
        folder: the folder of a checkpoint.
        stems: names without ending, the first that is there is taken; for folders that hold the
            weights of several modules.

    Returns:
        Files that exist, in the order of their names.

    Raises:
        WeightsError: there are none, or a shard or the index is broken.
    """
    for stem in stems:
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            return _shards(index)
        if (folder / f"{stem}.safetensors").is_file():
            return [folder / f"{stem}.safetensors"]
    pickles = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt*")])
    hint = f"; {pickles[0]} must be saved again as safetensors (save_pretrained)" if pickles else ""
    names = " or ".join(f"{stem}.safetensors" for stem in stems)
    raise WeightsError(f"{folder}: holds no weights, expected {names}{hint}.")


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise WeightsError(f"{index}: has no 'weight_map'.")
    files = [index.parent / name for name in sorted(set(weight_map.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise WeightsError(f"{index}: names shards that are not there: {_some(missing)}.")
    return files


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.

    Returns:
        Its content.

    Raises:
        WeightsError: it cannot be read, or is no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected an object.")
    return content


def tensors(
    folder: str | Path, prefix: str = "", stems: Sequence[str] = STEMS
) -> dict[str, Tensor]:
    """The tensors of a folder, mapped from disk: nothing is read before it is used.

    Args:
        folder: the folder of a checkpoint.
        prefix: keep the names that begin so, and take this off them.
        stems: see `weight_files`.

    Returns:
        Name to tensor, on the CPU, in the dtype of the file.

    Raises:
        WeightsError: there are no safetensors, or a file is broken or cut short.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    for file in weight_files(Path(folder), stems):
        try:
            with safe_open(file, framework="pt", device="cpu") as opened:
                names = [name for name in opened.keys() if name.startswith(prefix)]  # noqa: SIM118
                found |= {name[len(prefix) :]: opened.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: broken or cut short, fetch it again ({error}).") from error
    return found


def load_strictly(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    where: str,
    ignore: Sequence[str] = (),
    dtype: torch.dtype | None = None,
) -> None:
    """Fill a module, which may be on the meta device, with exactly these tensors, not copied.

    Parameters that the module ties stay tied; a checkpoint may hold any or all of their names.

    Args:
        module: what to fill.
        tensors: by the module's names.
        where: the folder, for messages.
        ignore: prefixes of names in `tensors` that belong to another module.
        dtype: cast floating-point tensors to this; None leaves them as stored.

    Raises:
        WeightsError: a tensor is missing, unexpected or of another shape; the message names the
            first few of each and counts the rest.
    """
    expected = module.state_dict(keep_vars=True)
    given = {k: v for k, v in tensors.items() if not k.startswith(tuple(ignore))}
    ties = _ties(expected)
    for names in ties:
        source = next((name for name in names if name in given), None)
        given |= {name: given[source] for name in names if source and name not in given}
    _check(expected, given, where)
    if dtype is not None:
        cast = {id(v): v.to(dtype) if v.is_floating_point() else v for v in given.values()}
        given = {name: cast[id(value)] for name, value in given.items()}
    module.load_state_dict(given, strict=True, assign=True)
    for first, *others in ties:
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, module.get_parameter(first))


def _ties(state: Mapping[str, Tensor]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, value in state.items():
        groups.setdefault(id(value), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _check(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    problems = []
    if missing := [name for name in expected if name not in given]:
        problems.append(f"{len(missing)} missing: {_some(missing)}")
    if unexpected := [name for name in given if name not in expected]:
        problems.append(f"{len(unexpected)} unexpected: {_some(unexpected)}")
    misshapen = [
        f"{name} is {tuple(given[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in given and given[name].shape != value.shape
    ]
    if misshapen:
        problems.append(f"{len(misshapen)} of another shape: {_some(misshapen)}")
    if problems:
        raise WeightsError(f"{where}: the weights do not fit; {'; '.join(problems)}.")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def read_config(folder: str | Path) -> dict[str, Any]:
    """The ``config.json`` of a folder.

    Args:
        folder: the folder of a checkpoint.

    Returns:
        Its content.

    Raises:
        WeightsError: there is none, or it is no JSON object.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; the folder of a checkpoint holds one.")
    return read_json(path)


def check_config(folder: str | Path, expected: Mapping[str, Any], where: str) -> None:
    """Compare the sizes of a module with the ``config.json`` of the weights it is to load.

    Args:
        folder: the folder of the weights.
        expected: the sizes of the module, by their names in ``config.json``. Names that the file
            lacks are not compared.
        where: the YAML key under which the sizes stand, such as ``model.backbone.init_args``.

    Raises:
        WeightsError: a size differs; the message names the key and the value to give it.
    """
    config = read_config(folder)
    wrong = [
        f"{where}.{name} is {_plain(value)} but the weights have {_plain(config[name])}"
        for name, value in expected.items()
        if name in config and _plain(config[name]) != _plain(value)
    ]
    if wrong:
        raise WeightsError(f"{Path(folder) / 'config.json'}: {'; '.join(wrong)}.")


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def fingerprint_of(folder: str | Path, stems: Sequence[str] = STEMS) -> str:
    """A short digest of a checkpoint, for caches of what it computed.

    Quick rather than complete: of each weight file it reads the name, the size, the safetensors
    header and 256 evenly spread pieces of 4 KiB, so files up to 1 MiB in full. Training moves
    every tensor, which this notices; a hand-edited byte in a large file it may not.

    Args:
        folder: the folder of a checkpoint.
        stems: see `weight_files`.

    Returns:
        16 hexadecimal digits.

    Raises:
        WeightsError: the folder holds no weights.
    """
    folder = Path(folder)
    digest = hashlib.sha256()
    if (folder / "config.json").is_file():
        digest.update((folder / "config.json").read_bytes())
    for file in weight_files(folder, stems):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as opened:
            header = opened.read(8)
            digest.update(header + opened.read(int.from_bytes(header, "little")))
            stride = max(CHUNK, size // CHUNKS)
            for start in range(0, size, stride):
                opened.seek(start)
                digest.update(opened.read(CHUNK))
    return digest.hexdigest()[:16]
