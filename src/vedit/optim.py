"""Muon for matrices, AdamW for everything else, as one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """Orthogonalised momentum on matrices, AdamW on vectors and convolutions.

    Muon (Jordan et al. 2024) with the update scaled to the size that AdamW's would have (Liu et al.
    2025, section 2.2), so that one learning rate suits both halves.

    Args:
        params: parameters to train, or groups of them with settings of their own.
        lr: learning rate of both halves.
        momentum: of Muon.
        betas: of AdamW.
        weight_decay: decoupled, of both halves.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        self.halves: list[Optimizer] = []
        super().__init__(params, {"lr": lr})
        matrices = _those(self.param_groups, lambda p: p.ndim == 2)
        others = _those(self.param_groups, lambda p: p.ndim != 2)
        if matrices:
            self.halves.append(
                Muon(
                    matrices,
                    lr=lr,
                    momentum=momentum,
                    weight_decay=weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            self.halves.append(
                AdamW(others, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)
            )
        # The very groups of the halves, so that schedules act on them.
        self.param_groups = [group for half in self.halves for group in half.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update both halves.

        Args:
            closure: evaluates the loss again; called once.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for half in self.halves:
            half.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both halves."""
        return {"halves": [half.state_dict() for half in self.halves]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for half, state in zip(self.halves, state_dict["halves"], strict=True):
            half.load_state_dict(state)
        self.param_groups = [group for half in self.halves for group in half.param_groups]


def _those(
    groups: Iterable[dict[str, Any]], wanted: Callable[[Tensor], bool]
) -> list[dict[str, Any]]:
    """The groups with the wanted parameters alone; none that would be empty."""
    parted = [{**group, "params": [p for p in group["params"] if wanted(p)]} for group in groups]
    return [group for group in parted if group["params"]]
