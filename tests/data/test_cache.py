"""Cached latents and features: what encoding on the fly gives, once, and never a stale one."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.data.samples import sample, write_folder
from torch import Tensor

from vedit.data import cache_keys
from vedit.data.cache import CacheReader
from vedit.data.dataset import BatchDataset, EditDataset
from vedit.data.encode import encode_shards
from vedit.data.index import read_index
from vedit.data.media import decode_member
from vedit.data.plan import Draw
from vedit.data.shards import ShardReader
from vedit.data.transforms import RandomCropRotate
from vedit.errors import DataError


class Pooling:
    """A codec of averages: (B, 3, F, H, W) to (B, 3, 1 + (F - 1) / 4, H / 8, W / 8)."""

    def __init__(self, name: str = "pooling") -> None:
        self.name, self.clips = name, 0

    def encode(self, video: Tensor) -> Tensor:
        self.clips += len(video)
        return F.avg_pool3d(F.pad(video, (0, 0, 0, 0, 3, 0), mode="replicate"), (4, 8, 8))

    def fingerprint(self) -> str:
        return self.name


class Letters:
    """A context encoder whose features are letters, padded to 64; and the source's mean."""

    def __init__(self, reads_images: tuple[str, ...] = ()) -> None:
        self.reads_images, self.texts = reads_images, 0

    def features(
        self, instruction: Sequence[str], images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        self.texts += len(instruction)
        tokens = torch.zeros(len(instruction), 64, 2)
        valid = torch.zeros(len(instruction), 64, dtype=torch.bool)
        for i, text in enumerate(instruction):
            tokens[i, : len(text), 0] = torch.tensor([float(ord(c)) for c in text])
            tokens[i, : len(text), 1] = 1
            valid[i, : len(text)] = True
        features = {"tokens": tokens, "valid": valid}
        if "source" in images:
            features["mean"] = images["source"].mean((1, 2, 3, 4)).view(-1, 1)
        return features

    def fingerprint(self) -> str:
        return "letters"


def folder(path: Path) -> Path:
    """Six samples, the first three with one source."""
    samples = [sample(i, source=0 if i < 3 else i, mask=i == 4, reference=i == 5) for i in range(6)]
    write_folder(path, samples, shard_size=4)
    return path


def quiet(_: str) -> None:
    pass


def test_cached_latents_are_those_encoded_on_the_fly(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    encode_shards(directory, Pooling(), batch_size=3, progress=quiet)
    cache, reader = CacheReader(directory, "latents", "pooling"), ShardReader(directory)
    for entry in read_index(directory).entries:
        for suffix in entry.record.members[:-1]:
            expected = Pooling().encode(decode_member(reader, entry, suffix)[None])[0]
            assert torch.allclose(cache.latents(entry, suffix), expected, atol=1e-6)
    assert cache.status(read_index(directory).entries).complete


def test_equal_members_are_encoded_once(tmp_path: Path) -> None:
    codec = Pooling()
    encode_shards(folder(tmp_path), codec, progress=quiet)
    first = {"source and target of 0, 1, 2": 2, "of 3": 2}
    second = {"source and target": 4, "mask": 1, "reference": 1}
    assert codec.clips == sum(first.values()) + sum(second.values())


def test_what_is_done_is_kept(tmp_path: Path) -> None:
    directory, codec = folder(tmp_path), Pooling()
    encode_shards(directory, codec, progress=quiet)
    codec.clips = 0
    encode_shards(directory, codec, progress=quiet)
    assert codec.clips == 0
    (directory / "train-000001.latents.safetensors").unlink()
    lines: list[str] = []
    encode_shards(directory, codec, progress=lines.append)
    assert codec.clips == 6
    assert lines == ["train-000001.latents.safetensors: 6 latents (2/2)"]


def test_a_stale_cache_says_which_command_refreshes_it(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    encode_shards(directory, Pooling("old weights"), progress=quiet)
    entry = read_index(directory).entries[0]
    with pytest.raises(DataError) as error:
        CacheReader(directory, "latents", "new weights").latents(entry, "source.mp4")
    assert "stale, made by old weights" in str(error.value)
    assert f"run `vedit data encode {directory}`" in str(error.value)
    assert "\n" not in str(error.value)
    encode_shards(directory, Pooling("new weights"), progress=quiet)
    assert CacheReader(directory, "latents", "new weights").latents(entry, "source.mp4").ndim == 4


def test_missing_and_damaged_caches_are_named(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    entry = read_index(directory).entries[0]
    with pytest.raises(DataError, match="no cached latents; run `vedit data encode"):
        CacheReader(directory, "latents").latents(entry, "source.mp4")
    assert CacheReader(directory, "latents").status([entry]).present == 0
    encode_shards(directory, Pooling(), progress=quiet)
    path = directory / "train-000000.latents.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"train-000000\.latents\.safetensors: damaged"):
        CacheReader(directory, "latents").latents(entry, "source.mp4")
    encode_shards(directory, Pooling(), progress=quiet)  # makes it anew
    assert CacheReader(directory, "latents").latents(entry, "source.mp4").ndim == 4


def test_samples_without_latents_are_noticed(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    encode_shards(directory, Pooling(), progress=quiet)
    entries = read_index(directory).entries
    write_folder(directory, [sample(i) for i in range(10, 14)])  # same names, other samples
    changed = read_index(directory).entries
    cache = CacheReader(directory, "latents")
    assert cache.status(entries).present == 6
    assert cache.status(changed).present == 0
    with pytest.raises(DataError, match="train-0000010 has no cached latents"):
        cache.latents(changed[0], "target.mp4")


def test_features_come_back_with_their_padding(tmp_path: Path) -> None:
    directory, encoder = folder(tmp_path), Letters()
    encode_shards(directory, context_encoder=encoder, progress=quiet)
    entry = read_index(directory).entries[1]
    cache = CacheReader(directory, "features", "letters")
    for text in entry.record.instructions:
        cached, fresh = cache.features(entry, text), Letters().features([text], {})
        assert set(cached) == set(fresh)
        for name, value in cached.items():
            assert value.dtype == fresh[name].dtype
            assert torch.equal(value, fresh[name][0])
    size = (directory / "train-000000.features.safetensors").stat().st_size
    assert size < 5 * 64 * 2 * 4  # five wordings without their padding
    assert encoder.texts == 5 + 3  # each wording once per shard


def test_features_that_depend_on_the_source_are_kept_apart(tmp_path: Path) -> None:
    directory, encoder = folder(tmp_path), Letters(reads_images=("source",))
    encode_shards(directory, context_encoder=encoder, progress=quiet)
    cache, entries = CacheReader(directory, "features", "letters"), read_index(directory).entries
    first, other = entries[0], entries[3]
    means = [cache.features(e, "Make it negative", ("source",))["mean"] for e in (first, other)]
    assert not torch.allclose(means[0], means[1])
    source = decode_member(ShardReader(directory), other, "source.mp4")
    assert torch.allclose(means[1], source.mean(), atol=1e-5)
    assert cache.status(entries, ("source",)).complete
    assert not cache.status(entries, ()).complete


def test_features_of_references_that_were_letterboxed_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, encoder = folder(tmp_path), Letters(reads_images=("reference",))
    entries = read_index(directory).entries
    with monkeypatch.context() as earlier:  # keys held the digest of the file alone
        earlier.setattr(cache_keys, "_seen_key", lambda entry, suffix: entry.members[suffix].digest)
        encode_shards(directory, context_encoder=encoder, progress=quiet)
    before = CacheReader(directory, "features", "letters").status(entries, ("reference",))
    assert (before.present, before.needed) == (5, 6)
    encode_shards(directory, context_encoder=encoder, progress=quiet)
    assert CacheReader(directory, "features", "letters").status(entries, ("reference",)).complete


def test_a_smaller_dtype_is_kept(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    encode_shards(directory, Pooling(), Letters(), dtype=torch.bfloat16, progress=quiet)
    entry = read_index(directory).entries[0]
    assert CacheReader(directory, "latents").latents(entry, "source.mp4").dtype == torch.bfloat16
    features = CacheReader(directory, "features").features(entry, "Make it negative")
    assert features["tokens"].dtype == torch.bfloat16
    assert features["valid"].dtype == torch.bool
    latents, words = CacheReader(directory, "latents"), CacheReader(directory, "features")
    read = EditDataset(directory, latents, words)[Draw(0, 5, 0)]
    assert {z.dtype for z in read.latents.values()} == {torch.float32}  # as a codec gives them
    assert read.features is not None
    assert read.features["tokens"].dtype == torch.float32


# --- reading samples -----------------------------------------------------------------------


def test_a_decoded_batch(tmp_path: Path) -> None:
    batch = BatchDataset([EditDataset(folder(tmp_path))])[[Draw(0, 0, 1), Draw(0, 3, 2)]]
    assert batch.keys == ("train-0000000", "train-0000003")
    assert batch.instruction == ("Make it negative", "Make it negative")
    assert batch.edits == ("negative", "negative")
    assert batch.clips == ("clip0.mp4", "clip0.mp4")
    assert {n: tuple(v.shape) for n, v in batch.videos.items()} == {
        "source": (2, 3, 5, 16, 24),
        "target": (2, 3, 5, 16, 24),
    }
    assert batch.latents == {}
    assert batch.reference is None
    # The target is what the edit makes of the source, but for the codec.
    assert (batch.videos["target"] + batch.videos["source"]).abs().mean() < 0.02


def test_masks_and_references(tmp_path: Path) -> None:
    data = BatchDataset([EditDataset(folder(tmp_path))])
    masked = data[[Draw(0, 4, 0)]]
    mask = masked.videos["mask"]
    assert mask.shape == (1, 3, 5, 16, 24)
    assert torch.all(mask[..., :12] == 1)
    assert torch.all(mask[..., 12:] == -1)
    referenced = data[[Draw(0, 5, 0)]]
    assert referenced.reference is not None
    assert referenced.reference.shape == (1, 1, 3, 16, 24)
    target = referenced.videos["target"][:, :, 2]
    assert (referenced.reference[:, 0] - target).abs().mean() < 0.03


def test_cached_samples_are_not_decoded(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    encode_shards(directory, Pooling(), Letters(), progress=quiet)
    latents, features = CacheReader(directory, "latents"), CacheReader(directory, "features")
    dataset = EditDataset(directory, latents, features)
    plain = BatchDataset([dataset])[[Draw(0, 0, 1), Draw(0, 3, 2)]]
    assert plain.videos == {}
    assert plain.latents["target"].shape == (2, 3, 2, 2, 3)
    assert plain.features is not None
    assert plain.features["tokens"].shape == (2, 64, 2)
    referenced = dataset[Draw(0, 5, 0)]
    assert referenced.reference is None
    assert referenced.latents["reference"].shape == (3, 1, 2, 3)
    assert dataset[Draw(0, 4, 0)].latents["mask"].shape == (3, 2, 2, 3)
    both = EditDataset(directory, latents, features, pixels=True)[Draw(0, 5, 0)]
    assert set(both.videos) == {"source", "target"}
    assert both.reference is not None


def test_what_an_encoder_looks_at_is_decoded_and_no_more(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    encode_shards(directory, Pooling(), progress=quiet)
    latents = CacheReader(directory, "latents")
    sample = EditDataset(directory, latents, reads_images=("source", "reference"))[Draw(0, 5, 0)]
    assert set(sample.videos) == {"source"}
    assert set(sample.latents) == {"source", "target", "reference"}
    assert sample.reference is None
    assert len(sample.shown) == 1


def test_a_random_reference_bypasses_the_cache_and_follows_the_seed(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    encode_shards(directory, Pooling(), progress=quiet)
    latents = CacheReader(directory, "latents")
    dataset = EditDataset(directory, latents, reference=RandomCropRotate())
    a, b, c = (dataset[Draw(0, 5, seed)] for seed in (1, 1, 2))
    assert "reference" not in a.latents
    assert set(a.latents) == {"source", "target"}
    assert a.reference is not None
    assert b.reference is not None
    assert c.reference is not None
    assert torch.equal(a.reference, b.reference)
    assert not torch.equal(a.reference, c.reference)


def test_wordings_are_drawn_from_the_seed(tmp_path: Path) -> None:
    dataset = EditDataset(folder(tmp_path), wording="random")
    drawn = {dataset[Draw(0, 3, seed)].instruction for seed in range(20)}
    assert drawn == set(dataset.entries[3].record.instructions)
    assert dataset[Draw(0, 3, 7)].instruction == dataset[Draw(0, 3, 7)].instruction
    first = EditDataset(dataset.directory)
    assert {first[Draw(0, 3, seed)].instruction for seed in range(20)} == {"Make it negative"}


def test_samples_of_two_kinds_do_not_share_a_batch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train-0000004: cannot share a batch with train-0000000"):
        BatchDataset([EditDataset(folder(tmp_path))])[[Draw(0, 0, 0), Draw(0, 4, 0)]]


def test_a_dataset_crosses_into_workers(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    encode_shards(directory, Pooling(), progress=quiet)
    dataset = EditDataset(directory, CacheReader(directory, "latents"), pixels=True)
    before = dataset[Draw(0, 0, 0)]
    after = pickle.loads(pickle.dumps(dataset))[Draw(0, 0, 0)]
    assert torch.equal(before.videos["target"], after.videos["target"])
    assert torch.equal(before.latents["target"], after.latents["target"])
