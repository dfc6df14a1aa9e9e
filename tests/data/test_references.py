"""Several references of one sample, each of its own size: in shards, batches and caches."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.data.samples import FRAMES, HEIGHT, WIDTH, sample, write_folder
from tests.data.test_cache import Letters, Pooling
from tests.tiny import built
from tests.tiny_vlm import encoder
from torch import Tensor

from vedit.conditioning.append import AppendTokens
from vedit.data.cache import CacheReader
from vedit.data.cache_keys import text_key
from vedit.data.collate import collate
from vedit.data.dataset import EditDataset
from vedit.data.encode import encode_shards
from vedit.data.index import build_index, read_index
from vedit.data.media import decode_member
from vedit.data.plan import Draw, bucket_of
from vedit.data.shards import ShardReader
from vedit.data.transforms import RandomShrink, letterbox
from vedit.errors import DataError

SIZES = [(40, 20), (20, 40), (30, 30)]
READS = ("source", "reference")


class Looking(Letters):
    """Its features are the means of the references, in their order."""

    def __init__(self) -> None:
        super().__init__(READS)
        self.names: list[list[str]] = []

    def features(
        self, instruction: Sequence[str], images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        self.names.append(list(images))
        means = [image.mean((1, 2, 3, 4)) for name, image in images.items() if name != "source"]
        return {"means": torch.stack(means, dim=1)}


def picture(level: int, size: tuple[int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size[::-1], (level,) * 3).save(data, "png")
    return data.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Samples 0 and 1 with three references, 2 with one, 3 with none."""
    found = [sample(i, reference=[3, 3, 1, 0][i]) for i in range(4)]
    for number, one in enumerate(found):
        images = [picture(40 * (i + 1) + number, SIZES[i]) for i in range(len(one.references))]
        found[number] = replace(one, references=tuple(images))
    write_folder(tmp_path, found)
    return tmp_path


def levels(number: int) -> list[float]:
    return [(40 * (i + 1) + number) / 127.5 - 1 for i in range(3)]


def test_shards_from_elsewhere_are_indexed_with_all_references(folder: Path) -> None:
    before = read_index(folder).entries
    (folder / "index.jsonl").unlink()
    build_index(folder)
    entries = read_index(folder).entries
    assert entries == before
    assert [len(entry.record.references) for entry in entries] == [3, 3, 1, 0]
    assert [bucket_of(entry.record).references for entry in entries] == [3, 3, 1, 0]


def test_each_is_shown_at_its_own_size_and_encoded_at_that_of_the_video(folder: Path) -> None:
    data = EditDataset(folder, reads_images=READS)
    batch = collate([data[0], data[1]])
    assert batch.reference is not None
    assert batch.reference.shape == (2, 3, 3, HEIGHT, WIDTH)
    for number, (shown, encoded) in enumerate(zip(batch.shown, batch.reference, strict=True)):
        assert [tuple(image.shape[1:]) for image in shown] == SIZES
        torch.testing.assert_close(torch.stack([i.mean() for i in shown]).tolist(), levels(number))
        for image, boxed in zip(shown, encoded, strict=True):
            assert torch.equal(boxed, letterbox(image, (HEIGHT, WIDTH)))


def test_each_has_chance_of_its_own(folder: Path) -> None:
    data = EditDataset(folder, reference=RandomShrink())
    taken, again = data[Draw(0, 0, 5)], data[Draw(0, 0, 5)]
    assert taken.reference is not None
    assert again.reference is not None
    assert torch.equal(taken.reference, again.reference)
    generator = torch.Generator().manual_seed(5)
    shares = 0.7 + 0.3 * torch.rand(3, generator=generator)
    images = EditDataset(folder, reads_images=READS)[0].shown
    for image, share, boxed in zip(images, shares.tolist(), taken.reference, strict=True):
        assert torch.equal(boxed, letterbox(image, (HEIGHT, WIDTH), 1.0, share))


def test_stored_latents_lie_side_by_side_in_order(folder: Path) -> None:
    encode_shards(folder, Pooling(), progress=lambda _: None)
    data = EditDataset(folder, CacheReader(folder, "latents", "pooling"))
    entry, reader = data.entries[0], ShardReader(folder)
    each = [decode_member(reader, entry, s) for s in entry.record.references]
    expected = torch.cat([Pooling().encode(clip[None])[0] for clip in each], dim=1)
    torch.testing.assert_close(data[0].latents["reference"], expected)
    assert data[0].reference is None
    assert data[2].latents["reference"].shape == (3, 1, HEIGHT // 8, WIDTH // 8)


def test_stored_features_are_of_all_references(folder: Path) -> None:
    looking = Looking()
    write_folder(folder, [sample(0, reference=3), sample(1, reference=3)])
    encode_shards(folder, context_encoder=looking, progress=lambda _: None)
    assert looking.names == [["source", "reference", "reference.1", "reference.2"]]
    cache = CacheReader(folder, "features", looking.fingerprint())
    taken = EditDataset(folder, features=cache, reads_images=READS)[0]
    shown = EditDataset(folder, reads_images=READS)[0].shown
    assert taken.features is not None
    torch.testing.assert_close(taken.features["means"], torch.stack([i.mean() for i in shown]))


def test_features_depend_on_every_reference(folder: Path) -> None:
    entry, text = read_index(folder).entries[0], "Make it negative"
    keys = {text_key(entry, text, READS)}
    for suffix in entry.record.references:
        member = replace(entry.members[suffix], digest="another")
        other = replace(entry, members={**entry.members, suffix: member})
        keys.add(text_key(other, text, READS))
    assert len(keys) == 4


def test_other_counts_do_not_share_a_batch(folder: Path) -> None:
    data = EditDataset(folder, reads_images=READS)
    with pytest.raises(DataError, match="train-0000002: cannot share a batch with train-0000000"):
        collate([data[0], data[2]])


def test_a_system_reads_all_of_them(folder: Path) -> None:
    made = built(
        context=lambda spec: encoder(spec=spec, max_references=None, reference_readout="all"),
        reference=lambda spec: AppendTokens(spec, time="after"),
    )
    data = EditDataset(folder, reads_images=READS, reference=RandomShrink())
    conditions = made.conditions(collate([data[0], data[1]]))
    latents = conditions.latents["reference"]
    grid = made.codec.latent_grid(FRAMES, HEIGHT, WIDTH)
    assert latents.shape == (2, 4, 3, *grid[1:])
    one = made.conditions(collate([data[2]]))
    assert one.context.tokens.shape[1] < conditions.context.tokens.shape[1]


def test_shards_that_lack_one_are_refused(folder: Path) -> None:
    lacking = sample(0, reference=3)
    with pytest.raises(DataError, match=r"promises .*reference\.2\.png, json, the sample has"):
        replace(lacking, references=lacking.references[:2]).members()
