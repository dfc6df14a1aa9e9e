"""The state of an optimiser by the names of its parameters, whole or in pieces.

PyTorch numbers the parameters of an optimiser; a checkpoint in pieces names them. The numbers are
those of the order in which the groups list their parameters, so one form follows from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from vedit.errors import WeightsError
from vedit.parallel.checkpoint import Kept


@dataclass(frozen=True)
class NamedState:
    """The state of an optimiser.

    Attributes:
        tensors: by "PART.PARAMETER.KEY", such as "0.model.proj.weight.exp_avg".
        rest: for each part of the optimiser its groups, which list names of parameters, and values
            that are no tensors.
    """

    tensors: dict[str, Tensor]
    rest: list[dict[str, Any]]


def parts_of(optimizer: Optimizer) -> list[Optimizer]:
    """The optimisers that one is made of, or itself alone."""
    halves: list[Optimizer] = getattr(optimizer, "halves", [])
    return halves or [optimizer]


def named_state(optimizer: Optimizer, names: Mapping[Tensor, str]) -> NamedState:
    """The state of an optimiser by names; tensors are the optimiser's own.

    Args:
        optimizer: any that keeps its state by parameter.
        names: of its parameters.

    Returns:
        Everything that `load_named` needs.
    """
    tensors: dict[str, Tensor] = {}
    rest: list[dict[str, Any]] = []
    for number, part in enumerate(parts_of(optimizer)):
        values: dict[str, dict[str, Any]] = {}
        for parameter, state in part.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{number}.{names[parameter]}.{key}"] = value
                else:
                    values.setdefault(names[parameter], {})[key] = value
        groups = [
            {**group, "params": [names[p] for p in group["params"]]} for group in part.param_groups
        ]
        rest.append({"groups": groups, "values": values})
    return NamedState(tensors, rest)


def numbered(state: NamedState, whole: bool) -> dict[str, Any]:
    """The form that `Optimizer.load_state_dict` takes.

    Args:
        state: by names.
        whole: whether the optimiser is the only part; otherwise the parts come in "halves".

    Returns:
        The state, its parameters numbered in the order in which the groups list them.
    """
    by_name: dict[tuple[int, str], dict[str, Any]] = {}
    for name, tensor in state.tensors.items():
        part_number, _, place = name.partition(".")
        parameter, _, key = place.rpartition(".")
        by_name.setdefault((int(part_number), parameter), {})[key] = tensor
    found = []
    for number, part in enumerate(state.rest):
        order = [name for group in part["groups"] for name in group["params"]]
        index = {name: i for i, name in enumerate(order)}
        values = {
            index[name]: {**by_name.get((number, name), {}), **part["values"].get(name, {})}
            for name in order
            if (number, name) in by_name or name in part["values"]
        }
        groups = [{**g, "params": [index[n] for n in g["params"]]} for g in part["groups"]]
        found.append({"state": values, "param_groups": groups})
    return found[0] if whole else {"halves": found}


def is_whole(rest: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a named state is that of one optimiser, not of one made of several."""
    return len(rest) == 1


def places(
    optimizer: Optimizer, names: Mapping[Tensor, str], stored: Mapping[str, Kept]
) -> dict[str, Tensor]:
    """Empty tensors for a stored state, in pieces where the parameters are.

    Args:
        optimizer: whose state it will be.
        names: of its parameters.
        stored: the tensors by the names that `named_state` gives them.

    Returns:
        By the same names.

    Raises:
        WeightsError: if the state is of a parameter that the optimiser does not have.
    """
    parameters = {
        f"{number}.{names[p]}": p
        for number, part in enumerate(parts_of(optimizer))
        for group in part.param_groups
        for p in group["params"]
    }
    found: dict[str, Tensor] = {}
    for name, kept in stored.items():
        parameter = parameters.get(name.rpartition(".")[0])
        if parameter is None:
            raise WeightsError(
                f"ckpt_path: holds the optimiser's state of '{name}', which does not train here; "
                "start from it by model.init_from instead"
            )
        if kept.shape == parameter.shape:
            found[name] = torch.empty_like(parameter, dtype=kept.dtype, requires_grad=False)
        else:
            found[name] = torch.empty(kept.shape, dtype=kept.dtype)
    return found


def load(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load the state that `Optimizer.state_dict` gave on one process.

    Args:
        optimizer: whose parameters may lie in pieces.
        state: whole, or in pieces as the parameters are.

    Raises:
        WeightsError: if it is the state of an optimiser over other parameters.
    """
    states = state.get("halves", [state])
    parts = parts_of(optimizer)
    if len(states) != len(parts):
        raise WeightsError(
            f"ckpt_path: holds the state of {len(states)} optimisers, there are {len(parts)} here"
        )
    cut = [_in_pieces(part, given) for part, given in zip(parts, states, strict=True)]
    try:
        optimizer.load_state_dict({"halves": cut} if "halves" in state else cut[0])
    except (ValueError, KeyError) as error:
        raise WeightsError(
            f"ckpt_path: the optimiser's state is of other parameters or another optimiser "
            f"({' '.join(str(error).split())}); start from it by model.init_from instead"
        ) from error


def _in_pieces(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [n for group in state["param_groups"] for n in group["params"]]
    of_number: Callable[[int], Tensor | None] = dict(zip(numbers, parameters, strict=False)).get
    cut = {
        number: {key: _like(of_number(number), value) for key, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": cut}


def _like(parameter: Tensor | None, value: Any) -> Any:
    """A tensor of the parameter's shape, in pieces where the parameter is."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor):
        return value
    if isinstance(value, DTensor) or value.shape != parameter.shape:
        return value
    where = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), *where, src_data_rank=None)
