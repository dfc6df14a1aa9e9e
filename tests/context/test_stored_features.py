"""Features of encoders that read images go through the cache and give the same context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.context import test_decoupled, test_multiscale_vlm
from tests.data.samples import sample, write_folder

from vedit.context.base import ContextEncoder
from vedit.data.cache import CacheReader
from vedit.data.encode import encode_shards
from vedit.data.index import read_index
from vedit.data.media import decode_image, decode_member
from vedit.data.shards import ShardReader


@pytest.mark.parametrize(
    "make", [test_multiscale_vlm.encoder, test_decoupled.encoder], ids=["multiscale", "decoupled"]
)
def test_a_stored_sample_gives_the_context_of_its_pixels(
    make: Callable[[], ContextEncoder], tmp_path: Path
) -> None:
    encoder = make().requires_grad_(False)
    write_folder(tmp_path, [sample(i, reference=i == 2) for i in range(3)])
    encode_shards(tmp_path, None, encoder, batch_size=2, progress=lambda _: None)
    cache = CacheReader(tmp_path, "features", encoder.fingerprint())
    reader = ShardReader(tmp_path)
    for entry in read_index(tmp_path).entries:
        text = entry.record.instructions[0]
        images = {"source": decode_member(reader, entry, "source.mp4")[None]}
        if entry.record.has_reference:
            images["reference"] = decode_image(reader, entry, "reference.png")[None, :, None]
        stored = cache.features(entry, text, encoder.reads_images)
        kept = encoder([text], {}, {name: value[None] for name, value in stored.items()})
        live = encoder([text], images)
        assert kept.streams.keys() == live.streams.keys()
        streams = [(kept.streams[name], live.streams[name]) for name in live.streams]
        for got, expected in [(kept, live), *streams]:
            length = expected.tokens.shape[1]
            torch.testing.assert_close(got.tokens[:, :length], expected.tokens, atol=1e-5, rtol=0)
            assert got.valid is None or not got.valid[:, length:].any()
            assert got.valid is None or got.valid[:, :length].all()
