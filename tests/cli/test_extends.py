"""Composition of YAML: what wins, where it came from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vedit.cli.arguments import parse_arguments
from vedit.cli.extends import compose, merge
from vedit.cli.yaml_file import parse_value
from vedit.errors import ConfigError


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_later_layers_win(tmp_path: Path) -> None:
    write(
        tmp_path,
        one="a: {x: 1, y: 1, z: 1}",
        two="a: {y: 2, z: 2}",
        top="extends: [one, two.yaml]\na: {z: 3}",
        overlay="a: {w: 4}",
    )
    composed = compose([tmp_path / "top.yaml", tmp_path / "overlay.yaml"], [("a.x", 9)])
    assert composed.tree == {"a": {"x": 9, "y": 2, "z": 3, "w": 4}, "name": "top"}
    assert composed.origin("a.y") == str(tmp_path / "two.yaml")
    assert composed.origin("a.z") == str(tmp_path / "top.yaml")
    assert composed.origin("a.w") == str(tmp_path / "overlay.yaml")
    assert composed.origin("a.x") == "command line"


def test_extends_is_found_beside_the_file_and_under_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs" / "base").mkdir(parents=True)
    write(tmp_path / "configs" / "base", nano="a: 1")
    write(tmp_path, mine="extends: base/nano\nb: 2")
    monkeypatch.chdir(tmp_path)
    assert compose(["mine.yaml"]).tree == {"a": 1, "b": 2, "name": "mine"}


def test_a_new_class_drops_the_arguments_of_the_old_one() -> None:
    base = {"source": {"class_path": "A", "init_args": {"x": 1}}}
    assert merge(base, {"source": {"class_path": "B"}}) == {"source": {"class_path": "B"}}
    same = merge(base, {"source": {"class_path": "A", "init_args": {"y": 2}}})
    assert same["source"]["init_args"] == {"x": 1, "y": 2}
    assert merge(base, {"source": None}) == {"source": None}
    assert merge({"source": "A"}, {"source": {"init_args": {"y": 2}}}) == {
        "source": {"class_path": "A", "init_args": {"y": 2}}
    }


def test_overrides_reach_through_init_args(tmp_path: Path) -> None:
    write(tmp_path, top="model: {source: {class_path: A, init_args: {time: before}}}")
    overrides = [("model.source.time", "after"), ("model.mask", "B"), ("model.mask.x", 1)]
    composed = compose([tmp_path / "top.yaml"], overrides)
    assert composed.tree["model"] == {
        "source": {"class_path": "A", "init_args": {"time": "after"}},
        "mask": {"class_path": "B", "init_args": {"x": 1}},
    }


def test_lists_are_replaced_or_appended_to(tmp_path: Path) -> None:
    write(tmp_path, top="a: [1]\nb: [1]", over="a: [2]\nb+: [2]")
    composed = compose([tmp_path / "top.yaml", tmp_path / "over.yaml"], [("b+", 3)])
    assert (composed.tree["a"], composed.tree["b"]) == ([2], [1, 2, 3])


def test_interpolation_follows_overrides(tmp_path: Path) -> None:
    write(tmp_path, top="seed: 1\nmodel: {seed: '${seed}'}\nlogger: {folder: 'runs/${name}'}")
    tree = compose([tmp_path / "top.yaml"], [("seed", 7)]).tree
    assert tree["model"]["seed"] == 7
    assert tree["logger"]["folder"] == "runs/top"


def test_values_are_what_people_mean() -> None:
    assert parse_value("1e-4") == 1e-4
    assert parse_value("1.5e3") == 1500.0
    assert parse_value("null") is None
    assert parse_value("[a, 1]") == ["a", 1]
    assert parse_value("bf16-mixed") == "bf16-mixed"
    assert parse_value("{broken") == "{broken"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"top": "extends: nowhere"}, r"top.yaml: extends: no such file: .*nowhere.yaml"),
        ({"top": "extends: bsae", "base": "a: 1"}, "Did you mean 'base.yaml'"),
        (
            {"top": "extends: a", "a": "extends: b", "b": "extends: a"},
            r"b.yaml: extends: goes round in a circle: a.yaml -> b.yaml -> a.yaml",
        ),
        ({"top": "extends: top"}, "circle: top.yaml -> top.yaml"),
        ({"top": "extends: 3"}, "extends: expected a file name or a list of them, got"),
        ({"top": "model: {a: '${sed}'}\nseed: 1"}, r"model.a: '\${sed}': no key 'sed'.*'seed'"),
        ({"top": "a: [1, '${b}']"}, r"top.yaml: a.1: '\${b}': no key 'b'"),
        ({"top": "a: 1\nb: {\n"}, r"top.yaml:\d: not valid YAML"),
        ({"top": "a: 1\na: 2"}, "top.yaml:2: not valid YAML: key 'a' is given twice"),
        ({"top": "- 1"}, "top.yaml: expected keys with values, got a list"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(ConfigError, match=message) as caught:
        compose([tmp_path / "top.yaml"])
    assert "\n" not in str(caught.value)


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    write(tmp_path, quickstart="a: 1")
    with pytest.raises(ConfigError, match="quikstart.yaml. Did you mean 'quickstart.yaml'"):
        compose([tmp_path / "quikstart.yaml"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a.yaml"], "a.yaml: expected --config FILE or --some.key VALUE"),
        (["--config"], "--config: expected a value"),
        (["--trainer.max_steps", "--config", "a"], "--trainer.max_steps: expected a value"),
        (["--hlep"], "--hlep: expected a value after it. Did you mean 'help'?"),
    ],
)
def test_a_wrong_command_line_is_named(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_arguments(given)
    assert message in str(caught.value)


def test_negative_numbers_are_values() -> None:
    assert parse_arguments(["--a", "-1", "--b=-2"]).overrides == (("a", -1), ("b", -2))
