"""The index: made on writing, remade from tars, and suspicious of changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.samples import sample, write_folder

from vedit.data.index import INDEX_NAME, build_index, read_index
from vedit.data.shards import write_shard
from vedit.errors import DataError


def test_an_index_is_read_as_written(tmp_path: Path) -> None:
    written = write_folder(tmp_path, [sample(i, mask=i % 2 == 1) for i in range(6)])
    read = read_index(tmp_path)
    assert read == written
    assert len(read) == 6
    assert {e.shard for e in read.entries} == {"train-000000.tar", "train-000001.tar"}


def test_an_index_is_remade_from_the_tars(tmp_path: Path) -> None:
    written = write_folder(tmp_path, [sample(i) for i in range(5)])
    (tmp_path / INDEX_NAME).unlink()
    with pytest.raises(DataError, match=r"no index\.jsonl here; run `vedit data index"):
        read_index(tmp_path)
    assert build_index(tmp_path, lambda _: None) == written
    assert read_index(tmp_path) == written


def test_only_new_and_changed_shards_are_scanned(tmp_path: Path) -> None:
    write_folder(tmp_path, [sample(i) for i in range(8)])
    write_shard(tmp_path / "train-000001.tar", [sample(7)])
    write_shard(tmp_path / "train-000002.tar", [sample(20)])
    lines: list[str] = []
    index = build_index(tmp_path, lines.append)
    assert lines == ["train-000001.tar: 1 samples", "train-000002.tar: 1 samples"]
    assert [e.key for e in index.entries][-2:] == ["train-0000007", "train-0000020"]


def test_a_cut_off_or_missing_shard_is_noticed_before_training(tmp_path: Path) -> None:
    write_folder(tmp_path, [sample(i) for i in range(5)])
    shard = tmp_path / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"train-000001\.tar: has 2000 bytes"):
        read_index(tmp_path)
    with pytest.raises(DataError, match=r"train-000001\.tar: the shard is cut off"):
        build_index(tmp_path, lambda _: None)
    shard.unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar: indexed, but missing"):
        read_index(tmp_path)


def test_a_damaged_index_names_its_line_and_is_remade(tmp_path: Path) -> None:
    written = write_folder(tmp_path, [sample(i) for i in range(2)])
    path = tmp_path / INDEX_NAME
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match="line 3 is damaged"):
        read_index(tmp_path)
    assert build_index(tmp_path, lambda _: None) == written
    path.write_text('{"version": 99, "shards": {}}\n')
    with pytest.raises(DataError, match="version 99, expected 1"):
        read_index(tmp_path)


def test_a_key_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [sample(0)])
    write_shard(tmp_path / "b.tar", [sample(0)])
    with pytest.raises(DataError, match=r"key train-0000000 is in a\.tar and in b\.tar"):
        build_index(tmp_path, lambda _: None)


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.tar shards here"):
        build_index(tmp_path, lambda _: None)
