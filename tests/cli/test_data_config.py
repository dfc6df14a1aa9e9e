from __future__ import annotations

from pathlib import Path

import pytest

from vedit.cli.data_config import Component, parse_data_config, read_data_config
from vedit.data.splits import clip_spans
from vedit.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]


def content(**encode: object) -> dict[str, object]:
    return {
        "build": {"clips": "data/demo", "edits": ["grayscale", "sepia"]},
        "splits": {"train": {"output": "out/train", "windows": 3}, "test": {"output": "out/test"}},
        **({"encode": encode} if encode else {}),
    }


def test_splits_share_what_build_says_and_add_their_own() -> None:
    config = parse_data_config(content())
    train, test = config.splits
    assert (train.split, train.output, train.windows) == ("train", Path("out/train"), 3)
    assert (test.split, test.windows) == ("test", 100)
    assert train.edits == test.edits == ["grayscale", "sepia"]
    assert config.encode is None


def test_encode_names_classes_and_arguments() -> None:
    config = parse_data_config(content(codec={"class_path": "a.B", "init_args": {"weights": "x"}}))
    assert config.encode is not None
    assert config.encode.codec == Component("a.B", {"weights": "x"})
    assert config.encode.context is None
    assert config.encode.dtype == "float16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bild": {}}, r"^bild: unknown key, expected one of build, .* Did you mean 'build'"),
        ({"build": {"clip": "x"}}, r"^build\.clip: unknown key, .* Did you mean 'clips'"),
        ({"splits": {}}, r"^splits: names no split"),
        ({"splits": {"train": {}}}, r"^splits\.train\.output: is missing"),
        (
            {"splits": {"train": {"output": "x", "windws": 3}}},
            r"^splits\.train\.windws: unknown key, .* Did you mean 'windows'",
        ),
        (
            {"splits": {"train": {"output": "x", "windows": "many"}}},
            r"^splits\.train\.windows: got 'many', expected an integer",
        ),
        (
            {"splits": {"train": {"output": "x", "windows": 0}}},
            r"^splits\.train\.windows: got 0, expected at least 1",
        ),
        (
            {"splits": {"train": {"output": "x", "mask_area": [0.1]}}},
            r"^splits\.train\.mask_area: got 1 values, expected 2",
        ),
        (
            {"splits": {"train": {"output": "x", "reference": 1}}},
            r"^splits\.train\.reference: got 1, expected true or false",
        ),
        ({"encode": {"dtype": "float16"}}, r"^encode\.codec: is missing"),
        (
            {"encode": {"codec": {"class_path": "a.B"}, "dtype": "float15"}},
            r"^encode\.dtype: got 'float15', expected 'float32' or .* Did you mean 'float16'",
        ),
        (
            {"encode": {"codec": {"class": "a.B"}}},
            r"^encode\.codec\.class: unknown key, .* Did you mean 'class_path'",
        ),
        (
            {"encode": {"codec": {"class_path": "a.B"}, "batch_size": 0}},
            r"^encode\.batch_size: got 0",
        ),
    ],
)
def test_mistakes_name_the_key_and_the_nearest_fix(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_data_config({**content(), **change})


def test_an_unknown_edit_names_the_nearest_one() -> None:
    wrong = content()
    wrong["build"] = {"clips": "x", "edits": ["grayscael"]}
    with pytest.raises(ConfigError, match="Did you mean 'grayscale'"):
        parse_data_config(wrong)


def test_a_file_may_extend_another_and_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "build: {clips: data/demo, edits: [sepia]}\nsplits: {train: {output: o}}\n"
    )
    (tmp_path / "mine.yaml").write_text("extends: base\nbuild: {frames: 5}\n")
    (train,) = read_data_config(tmp_path / "mine.yaml", [("splits.train.windows", 2)]).splits
    assert (train.frames, train.windows, train.edits) == (5, 2, ["sepia"])


def test_errors_of_a_file_begin_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("splits: 3\n")
    with pytest.raises(ConfigError, match=r"wrong\.yaml: splits: got 3, expected a mapping"):
        read_data_config(tmp_path / "wrong.yaml")


def test_shipped_configs_keep_the_taught_edits_out_of_pretraining() -> None:
    taught = read_data_config(REPOSITORY / "configs/data/quickstart.yaml")
    pretrain = read_data_config(REPOSITORY / "configs/data/pretrain.yaml")
    chosen = {name for split in taught.splits for name in split.chosen}
    for split in pretrain.splits:
        assert not chosen & set(split.chosen)


def test_shipped_configs_build_only_from_splits_that_the_demo_clips_have(tmp_path: Path) -> None:
    for name in ("bbb.mp4", "bikes.mp4", "single_face.mp4", "cityCC0.mpg"):
        (tmp_path / name).touch()
    for name in ("quickstart", "pretrain"):
        for split in read_data_config(REPOSITORY / f"configs/data/{name}.yaml").splits:
            files = {path.name for path, _ in clip_spans(tmp_path, split.split)}
            assert ("bikes.mp4" in files) == (split.split == "test")


def test_the_quickstart_shows_the_model_no_target_when_it_is_tested() -> None:
    for split in read_data_config(REPOSITORY / "configs/data/quickstart.yaml").splits:
        assert split.reference is (split.split == "train")
