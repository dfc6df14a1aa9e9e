"""Edits made of random numbers: what training reads, without files, codec or video decoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vedit.batch import EditBatch

LATENT_CHANNELS, FRAMES, HEIGHT, WIDTH = 48, 9, 64, 112
WORDS = ("Make it black and white", "Turn the colours into their negative")


def edit_batch(number: int, kind: str) -> EditBatch:
    """Batch `number`, two samples that are a pure function of it.

    Args:
        number: of the batch.
        kind: "image", "video" or "reference".
    """
    generator = torch.Generator().manual_seed(number)
    frames = 1 if kind == "image" else FRAMES
    latent_frames = (frames - 1) // 4 + 1

    def draw(*shape: int) -> Tensor:
        return torch.rand(2, *shape, generator=generator) * 2 - 1

    def latents(time: int) -> Tensor:
        return draw(LATENT_CHANNELS, time, HEIGHT // 8, WIDTH // 8)

    names = ("source", "target", "mask")
    stored = {name: latents(latent_frames) for name in names}
    reference = None
    if kind == "reference":
        stored["reference"] = latents(1)
        reference = draw(1, 3, HEIGHT, WIDTH)
    return EditBatch(
        instruction=WORDS,
        keys=(f"{number}-0", f"{number}-1"),
        videos={"source": draw(3, frames, HEIGHT, WIDTH)},
        reference=reference,
        shown=() if reference is None else tuple(row.unbind() for row in reference),
        latents=stored,
        task="image" if kind == "image" else "video",
    )


class _Batches(Dataset[EditBatch]):
    def __init__(self, kinds: list[str], count: int) -> None:
        self.kinds, self.count = kinds, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> EditBatch:
        return edit_batch(number, self.kinds[number % len(self.kinds)])


class SyntheticEdits(LightningDataModule):
    """Batches in a fixed order.

    Args:
        kinds: of the batches, in turn.
        batches: how many there are.
    """

    def __init__(self, kinds: list[str], batches: int = 10) -> None:
        super().__init__()
        self.kinds, self.batches = kinds, batches

    def train_dataloader(self) -> Iterable[Any]:
        return DataLoader(_Batches(self.kinds, self.batches), batch_size=None)
