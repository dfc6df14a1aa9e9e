"""Starting from what another training made: `model.init_from`, less `model.init_without`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from vedit.errors import WeightsError, nearest
from vedit.finetune.adapter_file import from_adapter_file
from vedit.finetune.trained import Parts, found, is_there, read_trained

log = logging.getLogger(__name__)


def start_from(parts: Parts, path: str, without: Sequence[str] = ()) -> dict[str, Tensor]:
    """Copy what has a place in parts that are not adapted yet.

    Args:
        parts: by prefix.
        path: see `read_trained`.
        without: patterns of keys that are left out, such as "model.injections.mask.*".

    Returns:
        The tensors that have no place, for which adapters may be meant.

    Raises:
        WeightsError: if a shape differs, or a pattern matches no key.
    """
    own = _own(parts)
    state = _fitting(parts, own, path, without)
    for key in state.keys() & own.keys():
        own[key].copy_(state[key])
    fresh = {key.split(".")[2] for key in own.keys() - state if ".injections." in key}
    log.info("%s: %d tensors; new: %s", path, len(state), ", ".join(sorted(fresh)) or "nothing")
    return {key: tensor for key, tensor in state.items() if key not in own}


def check_start(parts: Parts, path: str, without: Sequence[str] = ()) -> None:
    """Compare shapes alone, before anything is built; what is not there yet may be made meanwhile.

    Args:
        parts: by prefix, on the meta device, not adapted.
        path: see `read_trained`.
        without: patterns of keys that are left out.

    Raises:
        WeightsError: if a shape differs, a pattern matches no key, or the file is damaged.
    """
    if is_there(path):
        _fitting(parts, _own(parts), path, without)


def _own(parts: Parts) -> dict[str, Tensor]:
    return {f"{n}.{k}": v for n, (part, _) in parts.items() for k, v in part.state_dict().items()}


def _fitting(
    parts: Parts, own: Mapping[str, Tensor], path: str, without: Sequence[str]
) -> dict[str, Tensor]:
    """What is taken of a checkpoint, its shapes compared with the parts' own."""
    state = read_trained(path)
    if path.endswith(".safetensors") and "model.backbone" in parts:
        state = from_adapter_file(state, found(path), parts["model.backbone"][1])
    state = _left(state, path, without)
    for key in sorted(state.keys() & own.keys()):
        if own[key].shape != state[key].shape:
            raise WeightsError(
                f"model.init_from: {path}: {key} is {tuple(state[key].shape)}, this configuration "
                f"has {tuple(own[key].shape)}; to start that part anew: model.init_without "
                f"['{'.'.join(key.split('.')[:3])}.*']"
            )
    return state


def _left(state: Mapping[str, Tensor], path: str, without: Sequence[str]) -> dict[str, Tensor]:
    """What patterns leave."""
    for pattern in without:
        if not any(fnmatchcase(key, pattern) for key in state):
            raise WeightsError(
                f"model.init_without: {pattern} matches nothing in {path}.{nearest(pattern, state)}"
            )
    return {k: v for k, v in state.items() if not any(fnmatchcase(k, p) for p in without)}
