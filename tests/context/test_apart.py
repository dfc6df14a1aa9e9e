"""References of different sizes in one batch: each is encoded as it would be alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.context import test_decoupled, test_multiscale_vlm
from tests.tiny import make_batch
from tests.tiny_vlm import QWEN3, QWEN25, encoder
from torch import Tensor

from vedit.context.apart import shown_of
from vedit.errors import DataError

WORDS = ["Make it blue", "Turn the whole video upside down, please", "Blur"]


def images(*sizes: tuple[int, int]) -> tuple[Tensor, ...]:
    return tuple(torch.rand(3, *size) * 2 - 1 for size in sizes)


@pytest.mark.parametrize(
    "make",
    [
        lambda: encoder(QWEN25, max_references=None, reference_readout="all"),
        lambda: encoder(QWEN3, max_references=None, reference_readout="all"),
        lambda: encoder(),
        lambda: encoder(reference_readout="none"),
        lambda: test_multiscale_vlm.encoder(max_references=None),
        test_decoupled.encoder,
    ],
    ids=["all", "deepstack", "last", "queries alone", "multiscale", "decoupled"],
)
def test_a_batch_is_its_samples_one_by_one(make: Any) -> None:
    torch.manual_seed(0)
    model, source = make(), torch.rand(3, 3, 5, 56, 56) * 2 - 1
    shown = [
        images((112, 56), (56, 112)),
        images((56, 112), (56, 112)),
        images((112, 56), (56, 112)),
    ]
    together = model(WORDS, {"source": source}, shown=shown)
    for i, text in enumerate(WORDS):
        alone = model([text], {"source": source[i : i + 1]}, shown=[shown[i]])
        streams = [(together.streams[n], stream) for n, stream in alone.streams.items()]
        for many, one in [(together, alone), *streams]:
            row = many.tokens[i]
            valid = torch.ones(len(row), dtype=torch.bool) if many.valid is None else many.valid[i]
            torch.testing.assert_close(row[valid], one.tokens[0], atol=1e-5, rtol=1e-5)


def test_only_unequal_references_leave_padding() -> None:
    torch.manual_seed(0)
    model, source = encoder(), torch.rand(2, 3, 5, 56, 56) * 2 - 1
    equal = [images((56, 112)), images((56, 112))]
    assert model(WORDS[:2], {"source": source}, shown=equal).valid is None
    small, large = images((56, 56)), images((112, 56))
    context = model(WORDS[:2], {"source": source}, shown=[small, large])
    assert context.valid is not None
    assert context.valid.sum(dim=1).tolist() == [4 + 6, 8 + 6]


def test_references_for_the_latents_alone_are_not_shown() -> None:
    batch = replace(make_batch(reference=True), shown=())
    assert shown_of(batch, ("source",)) == ()
    assert shown_of(replace(batch, features={}), ("reference",)) == ()
    assert shown_of(make_batch(), ("reference",)) == ()
    with pytest.raises(DataError, match=r"key-0: model\.context looks at references"):
        shown_of(batch, ("source", "reference"))
    assert shown_of(make_batch(reference=True), ("reference",)) != ()
    assert make_batch(reference=True).without("reference").shown == ()
