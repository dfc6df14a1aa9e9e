"""Learnable queries and the maps from a language model's width to that of the backbone.

Source: Kiwi-Edit (arXiv 2603.02175, section 3): banks of queries for image, video and reference
tasks, one two-layer perceptron for queries and one for the tokens of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vedit.context.shown import Mode


@dataclass(frozen=True)
class QueryCounts:
    """How many learnable queries each kind of prompt has.

    Attributes:
        image: where the source is one frame.
        video: where it is a video.
        reference: where there is a reference.
    """

    image: int = 256
    video: int = 512
    reference: int = 768


class Perceptron(nn.Sequential):
    """Linear, GELU (tanh), linear; the last layer starts at zero.

    Args:
        hidden_size: width E of the language model.
        width: width D of the backbone.
    """

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__(
            nn.Linear(hidden_size, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the first layer, zero the last one."""
        first, _, last = self
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        first.reset_parameters()
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


class QueryConnector(nn.Module):
    """Three banks of queries and two perceptrons, by the names of the released weights.

    Args:
        hidden_size: width E of the language model.
        width: width D of the backbone.
        counts: queries in each bank.
    """

    def __init__(self, hidden_size: int, width: int, counts: QueryCounts) -> None:
        super().__init__()
        self.image_queries = nn.Parameter(torch.empty(counts.image, hidden_size))
        self.video_queries = nn.Parameter(torch.empty(counts.video, hidden_size))
        self.ref_queries = nn.Parameter(torch.empty(counts.reference, hidden_size))
        self.connector = Perceptron(hidden_size, width)
        self.ref_connector = Perceptron(hidden_size, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the queries from N(0, 0.02^2) and start both perceptrons at zero."""
        for bank in (self.image_queries, self.video_queries, self.ref_queries):
            nn.init.normal_(bank, std=0.02)
        self.connector.reset_parameters()
        self.ref_connector.reset_parameters()

    def queries(self, mode: Mode) -> Tensor:
        """The bank (N, E) of one kind of prompt."""
        return {
            "image": self.image_queries,
            "video": self.video_queries,
            "reference": self.ref_queries,
        }[mode]

    def forward(self, queries: Tensor, reference: Tensor | None, mode: Mode) -> Tensor:
        """Map what was read out to the backbone's width, reference tokens first.

        What the mode does not use takes part with weight zero: every parameter has a gradient at
        every step, which distributed training relies on.

        Args:
            queries: (B, N, E) read out for the queries.
            reference: (B, M, E) read out for the reference, None if there is none.
            mode: the kind of prompt.

        Returns:
            (B, M + N, D).
        """
        dtype = self.image_queries.dtype
        tokens = self.connector(queries.to(dtype))
        if reference is not None:
            tokens = torch.cat([self.ref_connector(reference.to(dtype)), tokens], dim=1)
        if not torch.is_grad_enabled():
            return tokens
        used = {id(self.queries(mode)), *map(id, self.connector.parameters())}
        used |= set() if reference is None else set(map(id, self.ref_connector.parameters()))
        idle = [p.sum() for p in self.parameters() if id(p) not in used and p.requires_grad]
        return tokens + 0.0 * torch.stack(idle).sum() if idle else tokens
