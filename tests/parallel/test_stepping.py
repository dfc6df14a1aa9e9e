"""One step of an optimizer over pieces and whole parameters is the step of a single process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from vedit.optim import MuonAdamW
from vedit.parallel.stepping import apart

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "muon": lambda parameters: MuonAdamW(parameters, lr=0.01, weight_decay=0.1),
    "adamw": lambda parameters: AdamW(parameters, lr=0.01),
    "fused": lambda parameters: AdamW(parameters, lr=0.01, fused=True),
    "foreach": lambda parameters: AdamW(parameters, lr=0.01, foreach=True),
}
STEPS = 2


def network() -> nn.Sequential:
    """Matrices that divide among two ranks, that do not, and one of which a rank has nothing."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 4), nn.Linear(4, 1))


def spread(network: nn.Sequential, kept: str) -> None:
    """Share weights out, but for a matrix and a vector, or all."""
    first, norm = network[0], network[1]
    ignored = {first.weight, norm.bias} if kept == "some whole" else set()
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    fully_shard(network, mesh=mesh, ignored_params=ignored)
    kinds = {isinstance(p, DTensor) for p in network.parameters()}
    assert kinds == ({True, False} if ignored else {True})


def step(network: nn.Module, optimizer: Optimizer, number: int) -> None:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    network(x).square().mean().backward()
    groups = optimizer.param_groups
    with apart(optimizer):
        optimizer.step()
    assert optimizer.param_groups is groups


def stepped(name: str, kept: str | None) -> list[Tensor]:
    """The parameters after some steps, whole; all ranks have the same samples."""
    made = network()
    if kept is not None:
        spread(made, kept)
    optimizer = OPTIMIZERS[name](made.parameters())
    for number in range(STEPS):
        step(made, optimizer, number)
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in made.parameters()]


def gap(name: str, kept: str) -> tuple[float, float]:
    """The largest difference from a single process, and how far that one went."""
    start = [p.detach() for p in network().parameters()]
    alone, together = stepped(name, None), stepped(name, kept)
    gaps = [float((a - b).abs().max()) for a, b in zip(alone, together, strict=True)]
    ways = [float((a - b).abs().max()) for a, b in zip(alone, start, strict=True)]
    return max(gaps), min(ways)


@pytest.mark.parametrize("kept", ["all in pieces", "some whole"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_ranks_step_as_one(two: Any, name: str, kept: str) -> None:
    for difference, way in two.run(gap, name, kept):
        assert way > 1e-3
        assert difference < 1e-6  # a kernel over a piece may round otherwise than over the whole


def momentum_in_pieces() -> bool:
    made = network()
    spread(made, "all in pieces")
    optimizer = OPTIMIZERS["muon"](made.parameters())
    assert isinstance(optimizer, MuonAdamW)
    step(made, optimizer, 0)
    states = optimizer.halves[0].state.values()
    return all(isinstance(state["momentum_buffer"], DTensor) for state in states)


def test_momentum_stays_in_pieces(two: Any) -> None:
    assert two.run(momentum_in_pieces) == [True] * 2


def refused(name: str) -> str:
    """What torch says of pieces and whole parameters in one group."""
    made = network()
    spread(made, "some whole")
    optimizer = OPTIMIZERS[name](made.parameters())
    made(torch.ones(2, 6)).square().mean().backward()
    try:
        optimizer.step()
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["fused", "foreach"])
def test_torch_alone_refuses_the_mixture(two: Any, name: str) -> None:
    # Once it no longer does, `apart` has no reason.
    assert all("mixed torch.Tensor and DTensor" in said for said in two.run(refused, name))


def test_groups_are_one_again_after_an_error() -> None:
    made = network()
    optimizer = AdamW(made.parameters(), lr=0.01)
    groups = optimizer.param_groups
    with pytest.raises(KeyError), apart(optimizer):
        raise KeyError
    assert optimizer.param_groups is groups
