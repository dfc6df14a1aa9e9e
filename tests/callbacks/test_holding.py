"""What a system holds: the numbers that its optimizer keeps."""

from __future__ import annotations

import pytest
import torch

from vedit.callbacks.holding import optimizer_numbers
from vedit.optim import MuonAdamW


@pytest.mark.parametrize(
    ("make", "states"),
    [
        (lambda p: torch.optim.SGD(p, lr=1.0), 0),
        (lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9), 1),
        (lambda p: torch.optim.AdamW(p, lr=1.0), 2),
        (lambda p: MuonAdamW(p), 1),
    ],
)
def test_states_of_optimizers(make: object, states: int) -> None:
    assert optimizer_numbers(make)[0] == states


def test_an_optimizer_that_is_fused_takes_nothing_for_a_moment() -> None:
    assert optimizer_numbers(lambda p: torch.optim.AdamW(p, lr=1.0))[1] == 1
    assert optimizer_numbers(lambda p: torch.optim.AdamW(p, lr=1.0, foreach=False))[1] == 0
