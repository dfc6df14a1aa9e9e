"""What trains of an editor's parts: what a checkpoint holds, and how it is put back.

A part is a module with its finetuning method; parts are named by the prefix of their keys, such as
`model.backbone`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from vedit.errors import WeightsError, nearest
from vedit.finetune.base import Finetune
from vedit.finetune.checkpoint_file import is_checkpoint, read_checkpoint
from vedit.folders import ROOT
from vedit.weights import tensors

Parts: TypeAlias = Mapping[str, tuple[nn.Module, Finetune]]


def trained_state(parts: Parts, gathered: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What trains, and nothing else: `Finetune.saved` of each part under the part's prefix.

    Args:
        parts: by prefix.
        gathered: the whole state by full keys, where it was gathered from several ranks; None
            reads it from the modules.

    Returns:
        Tensors by "PREFIX.NAME".
    """
    state: dict[str, Tensor] = {}
    for name, (module, finetune) in parts.items():
        whole = module if gathered is None else _Gathered(_under(gathered, name))
        state |= {f"{name}.{key}": tensor for key, tensor in finetune.saved(whole).items()}
    return state


def restore(parts: Parts, state: Mapping[str, Tensor], where: str, complete: bool = True) -> None:
    """Put back what `trained_state` gave.

    Args:
        parts: by prefix.
        state: tensors by the same keys.
        where: the file, for messages.
        complete: whether all that trains must be there.

    Raises:
        WeightsError: if a key is unexpected or missing, or a shape differs.
    """
    own = trained_state(parts)
    missing, unexpected = sorted(own.keys() - state), sorted(state.keys() - own)
    if unexpected or (missing and complete):
        problems = [f"{len(missing)} missing: {_few(missing)}"] if missing else []
        problems += [f"{len(unexpected)} unexpected: {_few(unexpected)}"] if unexpected else []
        hint = nearest(unexpected[0], own) if unexpected else ""
        raise WeightsError(
            f"{where}: does not hold what this configuration trains; {'; '.join(problems)}."
            f"{hint} Use the configuration stored beside the checkpoint, or model.init_from"
        )
    for name, (module, finetune) in parts.items():
        if mine := _under(state, name):
            try:
                finetune.restore(module, mine)
            except WeightsError as error:
                raise WeightsError(f"{where}: {error}") from error


def read_trained(path: str | Path) -> dict[str, Tensor]:
    """What a checkpoint, a run's folder, a folder of safetensors or one such file holds.

    Args:
        path: relative to the current directory, or else to the root of this repository.

    Returns:
        Tensors by the keys that the file has.

    Raises:
        WeightsError: if nothing of the kind is there, or it is damaged.
    """
    path = found(path)
    if path.is_dir() and is_checkpoint(path / "checkpoints" / "last.ckpt"):
        path = path / "checkpoints" / "last.ckpt"
    if path.is_dir() and not is_checkpoint(path):
        return dict(tensors(path))
    if not path.exists():
        raise WeightsError(
            f"{path}: no such checkpoint or folder (looked in {Path.cwd()} and {ROOT})"
        )
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: broken or cut short, fetch it again ({error}).") from error
    state: dict[str, Tensor] = read_checkpoint(path, mmap=True)["state_dict"]
    return state


def is_there(path: str | Path) -> bool:
    """Whether `read_trained` would find something, whole or not.

    Args:
        path: as there.

    Returns:
        False for a run that has written no checkpoint yet, too.
    """
    path = found(path)
    if is_checkpoint(path) or is_checkpoint(path / "checkpoints" / "last.ckpt"):
        return True
    return path.is_dir() and any(path.glob("*.safetensors"))


def found(path: str | Path) -> Path:
    """A path relative to the current directory, or else to the root of this repository.

    Args:
        path: of a file or a folder.

    Returns:
        Where it is.
    """
    path = Path(path)
    return ROOT / path if not path.exists() and (ROOT / path).exists() else path


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {key[len(start) :]: value for key, value in state.items() if key.startswith(start)}


class _Gathered(nn.Module):
    """Stands for a part whose state was gathered from all ranks: it has that state, no more."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.gathered = state

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return self.gathered


def _few(keys: Sequence[str], count: int = 3) -> str:
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return f"{', '.join(keys[:count])}{more}"
