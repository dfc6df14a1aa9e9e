"""Guidance and dropout replace or stack a context with all of its streams."""

import torch

from vedit.batch import Conditions
from vedit.conditioning.null import aligned, replace_rows, stacked, twice
from vedit.tokens import Context


def context(batch=2, length=3, valid=None, **streams):
    return Context(torch.randn(batch, length, 4), valid, streams)


def test_streams_are_stacked_along_the_batch():
    first, null = context(image=context(length=5)), context(image=context(length=5))
    both = stacked(first, null)
    assert both.valid is None
    assert both.streams["image"].valid is None
    assert torch.equal(both.tokens, torch.cat([first.tokens, null.tokens]))
    image = torch.cat([first.streams["image"].tokens, null.streams["image"].tokens])
    assert torch.equal(both.streams["image"].tokens, image)


def test_a_stream_that_the_null_lacks_is_kept():
    first, null = context(image=context(length=5)), context(length=4)
    both = twice(Conditions({"source": torch.zeros(2, 1)}, first), null).context
    assert both.tokens.shape == (4, 4, 4)
    assert both.valid.sum(1).tolist() == [3, 3, 4, 4]
    image = first.streams["image"].tokens
    assert torch.equal(both.streams["image"].tokens, torch.cat([image, image]))
    mixed = replace_rows(first, null, torch.tensor([False, True]))
    assert torch.equal(mixed.streams["image"].tokens, image)
    assert torch.equal(mixed.tokens[1, :4], null.tokens[1])


def test_a_stream_that_one_side_lacks_is_all_padding_there():
    first = context(image=context(length=5))
    both = stacked(first, context(length=4))
    image = both.streams["image"]
    assert image.tokens.shape == (4, 5, 4)
    assert image.valid.sum(1).tolist() == [5, 5, 0, 0]
    assert not image.tokens[2:].any()
    one, other = aligned(context(), first)
    assert one.valid is None
    assert not one.streams["image"].valid.any()
    assert other.streams["image"].valid.all()


def test_rows_are_replaced_in_every_stream():
    first = context(image=context(length=5))
    null = context(batch=1, length=3, image=context(batch=1, length=2))
    mixed = replace_rows(first, null, torch.tensor([False, True]))
    assert torch.equal(mixed.tokens, torch.stack([first.tokens[0], null.tokens[0]]))
    image = mixed.streams["image"]
    assert torch.equal(image.tokens[0], first.streams["image"].tokens[0])
    assert torch.equal(image.tokens[1, :2], null.streams["image"].tokens[0])
    assert image.valid.sum(1).tolist() == [5, 2]
