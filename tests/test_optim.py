"""The hybrid optimizer is Muon on matrices, AdamW elsewhere, and resumes exactly."""

import copy

import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR

from vedit.optim import MuonAdamW


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (net(x) - x[:, :3]).square().mean().backward()
        optimizer.step()


def test_each_half_moves_its_parameters_as_the_original_would() -> None:
    ours, theirs = network(), network()
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim != 2]
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(vectors, lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    optimizer = MuonAdamW(ours.parameters(), lr=0.01)
    for step in range(5):
        train(ours, optimizer, step, step + 1)
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        theirs.zero_grad()
        (theirs(x) - x[:, :3]).square().mean().backward()
        muon.step()
        adamw.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_schedule_reaches_both_halves() -> None:
    optimizer = MuonAdamW(network().parameters(), lr=0.01)
    schedule = LinearLR(optimizer, start_factor=0.5, total_iters=2)
    assert [group["lr"] for half in optimizer.halves for group in half.param_groups] == [0.005] * 2
    train(network(), optimizer, 0, 1)
    schedule.step()
    assert [group["lr"] for half in optimizer.halves for group in half.param_groups] == [0.0075] * 2


def test_resuming_continues_exactly() -> None:
    straight = network()
    optimizer = MuonAdamW(straight.parameters())
    train(straight, optimizer, 0, 3)
    resumed = network(seed=1)
    resumed.load_state_dict(straight.state_dict())
    second = MuonAdamW(resumed.parameters())
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # as a file would
    train(straight, optimizer, 3, 6)
    train(resumed, second, 3, 6)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
