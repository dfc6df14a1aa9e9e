"""Muon for matrices, AdamW for everything else, as one optimizer."""

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW, Optimizer

QUINTIC = (3.4445, -4.7750, 2.0315)
"""a, b, c of Newton-Schulz, which send singular values in (0, 1] near to 1 in five steps."""


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
            self.halves.append(Muon(matrices, lr, momentum, weight_decay))
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
        loss = _evaluated(closure)
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


class Muon(Optimizer):
    """Muon, also of matrices in pieces on several ranks, which torch's own cannot step.

    Momentum stays in pieces. The update is a function of the whole matrix: it is gathered in
    bfloat16, the format that it is orthogonalised in anyway, by every rank alike, and each adds its
    piece. In every other respect the steps are those of `torch.optim.Muon`, bit by bit.

    Args:
        params: matrices to train, or groups of them with settings of their own.
        lr: learning rate.
        momentum: in [0, 1), Nesterov's.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every matrix that has a gradient.

        Args:
            closure: evaluates the loss again; called once.

        Returns:
            What the closure returned.
        """
        loss = _evaluated(closure)
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    ahead = self._ahead(matrix, group["momentum"]).bfloat16()
                    rate = group["lr"] * (0.2 * math.sqrt(max(matrix.shape)))  # AdamW's size
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(_like(matrix, orthogonalised(_whole(ahead))), alpha=-rate)
        return loss

    def _ahead(self, matrix: Tensor, momentum: float) -> Tensor:
        """The momentum after this step's gradient, and a step further (Nesterov)."""
        gradient = cast(Tensor, matrix.grad)
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum_buffer"], momentum)


def orthogonalised(g: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """U V^T, roughly, of g = U S V^T, by the quintic Newton-Schulz iteration (Jordan et al. 2024).

    Args:
        g: (m, n).
        steps: of the iteration.
        eps: smallest norm to divide by.

    Returns:
        (m, n), in the number format of `g`; singular values between about 0.7 and 1.2.
    """
    a, b, c = QUINTIC
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / x.norm().clamp(min=eps)  # no singular value is above 1
    for _ in range(steps):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x.T if g.shape[0] > g.shape[1] else x


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(matrix: Tensor, whole: Tensor) -> Tensor:
    """What every rank has whole, in pieces if the matrix is."""
    if not isinstance(matrix, DTensor):
        return whole
    # Nobody sends: all ranks computed the same.
    return distribute_tensor(whole, matrix.device_mesh, matrix.placements, src_data_rank=None)


def _evaluated(closure: Callable[[], float] | None) -> float | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _those(
    groups: Iterable[dict[str, Any]], wanted: Callable[[Tensor], bool]
) -> list[dict[str, Any]]:
    """The groups with the wanted parameters alone; none that would be empty."""
    parted = [{**group, "params": [p for p in group["params"] if wanted(p)]} for group in groups]
    return [group for group in parted if group["params"]]
