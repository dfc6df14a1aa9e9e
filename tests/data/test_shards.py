"""Shards: written whole, read at random, and precise about what is wrong with them."""

from __future__ import annotations

import gc
import io
import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import webdataset
from tests.data.samples import sample

from vedit.data.shards import ShardReader, content_digest, scan_shard, write_shard
from vedit.errors import DataError

SHARD = "train-000000.tar"


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    """A tar as any other tool would write it."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def members(number: int, change: Mapping[str, bytes] | None = None) -> list[tuple[str, bytes]]:
    content = {**sample(number).members(), **(change or {})}
    return [(f"train-{number:07d}.{suffix}", data) for suffix, data in content.items()]


def test_what_is_written_is_scanned_and_read_back(tmp_path: Path) -> None:
    written = [sample(0), sample(1, mask=True), sample(2, reference=True), sample(3, reference=3)]
    entries = write_shard(tmp_path / SHARD, written)
    assert scan_shard(tmp_path / SHARD) == entries
    assert [e.record for e in entries] == [s.record for s in written]
    reader = ShardReader(tmp_path)
    for entry, original in zip(entries, written, strict=True):
        for suffix, data in original.members().items():
            assert reader.read(entry, suffix).getvalue() == data
    assert [p.name for p in tmp_path.iterdir()] == [SHARD]


def test_equal_samples_give_equal_shards(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [sample(0), sample(1)])
    write_shard(tmp_path / "b.tar", [sample(0), sample(1)])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


# webdataset leaves the shard to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    write_shard(tmp_path / SHARD, [sample(0), sample(1, mask=True)])
    found = list(webdataset.WebDataset(str(tmp_path / SHARD), shardshuffle=False))
    gc.collect()
    assert [f["__key__"] for f in found] == ["train-0000000", "train-0000001"]
    assert found[1]["mask.mp4"] == sample(1, mask=True).mask


def test_we_read_the_shards_of_webdataset(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / SHARD)) as writer:
        for number in (0, 1):
            writer.write({"__key__": f"train-{number:07d}", **sample(number).members()})
    entries = scan_shard(tmp_path / SHARD)
    assert [e.key for e in entries] == ["train-0000000", "train-0000001"]
    reader = ShardReader(tmp_path)
    assert reader.read(entries[1], "target.mp4").getvalue() == sample(1).target


def test_a_failing_sample_leaves_no_shard(tmp_path: Path) -> None:
    broken = replace(sample(1), mask=b"unannounced")
    with pytest.raises(DataError, match="the record promises"):
        write_shard(tmp_path / SHARD, [sample(0), broken])
    with pytest.raises(DataError, match="train-0000000 occurs twice"):
        write_shard(tmp_path / SHARD, [sample(0), sample(0)])
    assert list(tmp_path.iterdir()) == []


def test_a_shard_cut_off_anywhere_names_the_last_whole_sample(tmp_path: Path) -> None:
    entries = write_shard(tmp_path / SHARD, [sample(0), sample(1), sample(2)])
    data = (tmp_path / SHARD).read_bytes()
    second, third = entries[1].members, entries[2].members
    for end, last in {
        third["target.mp4"].offset + 100: entries[1].key,  # inside a member
        third["source.mp4"].offset - 512: entries[1].key,  # between two samples
        second["json"].offset - 512: entries[0].key,  # between two members
        second["json"].offset - 300: entries[0].key,  # inside a header
    }.items():
        (tmp_path / SHARD).write_bytes(data[:end])
        with pytest.raises(DataError) as error:
            scan_shard(tmp_path / SHARD)
        text = one_line(error)
        assert f"{SHARD}: the shard is cut off" in text
        assert f"the last whole sample is {last}" in text
        assert "vedit data build" in text
    (tmp_path / SHARD).write_bytes(data[:700])
    with pytest.raises(DataError, match="it has no whole sample"):
        scan_shard(tmp_path / SHARD)


def test_source_and_target_of_another_length_are_refused(tmp_path: Path) -> None:
    longer = sample(0, frames=7).target
    write_tar(tmp_path / SHARD, members(0, {"target.mp4": longer}))
    with pytest.raises(DataError) as error:
        scan_shard(tmp_path / SHARD)
    assert "train-0000000.target.mp4 has 7 frames of 16x24, its record says 5" in one_line(error)


def test_source_and_target_of_another_size_are_refused(tmp_path: Path) -> None:
    from tests.data.samples import clip

    from vedit.video import encode_video

    wide = encode_video(clip(0, width=32), 24)
    write_tar(tmp_path / SHARD, members(0, {"source.mp4": wide}))
    with pytest.raises(DataError) as error:
        scan_shard(tmp_path / SHARD)
    assert "train-0000000.source.mp4 has 5 frames of 16x32" in one_line(error)


def test_a_doubled_suffix_is_refused(tmp_path: Path) -> None:
    content = members(0)
    write_tar(tmp_path / SHARD, [*content, content[0]])
    with pytest.raises(DataError, match=r"train-0000000\.source\.mp4 occurs twice"):
        scan_shard(tmp_path / SHARD)


@pytest.mark.parametrize("suffix", ["source.mp4", "target.mp4", "json"])
def test_a_missing_member_is_named(tmp_path: Path, suffix: str) -> None:
    kept = [(name, data) for name, data in members(0) if not name.endswith("." + suffix)]
    write_tar(tmp_path / SHARD, [*kept, *members(1)])
    with pytest.raises(DataError, match=rf"train-0000000\.{suffix} is missing"):
        scan_shard(tmp_path / SHARD)


def test_an_unannounced_member_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / SHARD, members(0, {"mask.mp4": b"?"}))
    with pytest.raises(DataError, match=r"train-0000000\.mask\.mp4 is not announced"):
        scan_shard(tmp_path / SHARD)


def test_scattered_members_are_refused(tmp_path: Path) -> None:
    first = members(0)
    write_tar(tmp_path / SHARD, [*first[:2], *members(1), *first[2:]])
    with pytest.raises(DataError, match=r"train-0000000\.\w+ is missing|is apart from"):
        scan_shard(tmp_path / SHARD)


def test_a_record_under_another_key_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / SHARD, members(0, {"json": sample(7).record.to_json().encode()}))
    with pytest.raises(DataError, match="its record has the key 'train-0000007'"):
        scan_shard(tmp_path / SHARD)


def test_a_replaced_shard_is_noticed_on_reading(tmp_path: Path) -> None:
    entries = write_shard(tmp_path / SHARD, [sample(0)])
    with (tmp_path / SHARD).open("r+b") as file:
        file.seek(entries[0].members["target.mp4"].offset + 60)
        file.write(b"flip")
    with pytest.raises(DataError, match=r"train-0000000\.target\.mp4: the bytes differ"):
        ShardReader(tmp_path).read(entries[0], "target.mp4")


def test_a_missing_shard_or_member_is_named(tmp_path: Path) -> None:
    entries = write_shard(tmp_path / SHARD, [sample(0)])
    with pytest.raises(DataError, match="there is no such member"):
        ShardReader(tmp_path).read(entries[0], "mask.mp4")
    (tmp_path / SHARD).unlink()
    with pytest.raises(DataError, match="the shard is missing"):
        ShardReader(tmp_path).read(entries[0], "json")


def test_a_reader_survives_pickling(tmp_path: Path) -> None:
    entries = write_shard(tmp_path / SHARD, [sample(0)])
    reader = ShardReader(tmp_path)
    reader.read(entries[0], "json")
    copy = pickle.loads(pickle.dumps(reader))
    assert (
        content_digest(copy.read(entries[0], "json").getvalue())
        == entries[0].members["json"].digest
    )
