"""The adapter between several layers of a language model and the backbone.

Source: MiVE (arXiv 2605.14664, section 4.2, equations 3 to 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

EPS = 1e-6  # of the norms; the paper gives none


class Branch(nn.Module):
    """RMS normalisation and a linear map: what one layer has of its own (equation 3).

    Args:
        hidden: width E of the layer.
        width: of the result.
    """

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(hidden, eps=EPS)
        self.proj = nn.Linear(hidden, width)

    def forward(self, states: Tensor) -> Tensor:
        """States (B, L, E) to (B, L, width)."""
        return self.proj(self.norm(states))


class MultiscaleAdapter(nn.Module):
    """A branch for each layer; the results side by side and fused, or each for itself.

    Args:
        hidden: width E of the layers.
        width: width D of the backbone.
        layers: how many there are.
        fused: whether branches are concatenated on the feature axis (equation 4) and mapped to the
            width of the backbone (equation 5); if not, each branch has that width.
        branch_width: width of each branch, None divides D among them, which gives the paper's D/2
            for two layers.
    """

    def __init__(
        self,
        hidden: int,
        width: int,
        layers: int,
        fused: bool = True,
        branch_width: int | None = None,
    ) -> None:
        super().__init__()
        each = width if not fused else branch_width or width // layers
        self.branches = nn.ModuleList(Branch(hidden, each) for _ in range(layers))
        self.fusion = nn.Linear(layers * each, width) if fused else None

    def forward(self, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Adapt the states of every layer.

        Args:
            states: (B, L, E) of each layer.

        Returns:
            One tensor (B, L, D) if fused, else one for each layer.
        """
        dtype = next(self.parameters()).dtype
        pairs = zip(self.branches, states, strict=True)
        adapted = tuple(branch(each.to(dtype)) for branch, each in pairs)
        if self.fusion is None:
            return adapted
        return (self.fusion(torch.cat(adapted, dim=-1)),)

    def reset_parameters(self) -> None:
        """Initialise every parameter anew."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.RMSNorm):
                module.reset_parameters()
