"""Folders of weights are found here or on the hub, and what is not there is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vedit.errors import WeightsError
from vedit.folders import is_hub_id, lacks_part, model_folder, resolve_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "transformer"
    place.mkdir()
    (place / "config.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, place / "model.safetensors")
    return place


class Hub:
    """A hub with one model; what huggingface_hub downloads is here from the start."""

    def __init__(self, snapshot: Path) -> None:
        self.snapshot, self.asked = snapshot, []

    def __call__(self, repository: str, allow_patterns: list[str]) -> str:
        self.asked.append((repository, allow_patterns))
        return str(self.snapshot)


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(folder.parent)
    monkeypatch.setattr("huggingface_hub.snapshot_download", found)
    return found


def test_a_missing_folder_names_its_nearest_sibling(folder: Path) -> None:
    with pytest.raises(WeightsError, match="no such folder.* Did you mean 'transformer'"):
        resolve_folder(folder.parent / "transfromer")
    with pytest.raises(WeightsError, match="has no 'transfromer'. Did you mean 'transformer'"):
        resolve_folder(folder.parent / "transfromer" / "deeper")


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(WeightsError, match="expected the folder that holds it"):
        resolve_folder(folder / "config.json")


def test_subfolders_resolve(folder: Path) -> None:
    assert resolve_folder(folder.parent, "transformer") == folder
    assert resolve_folder(str(folder)) == folder


def test_a_relative_path_is_not_taken_for_a_hub_id(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "nano" / "vae").mkdir(parents=True)
    with pytest.raises(WeightsError, match=r"nano/vea: no such folder.* Did you mean 'vae'"):
        resolve_folder("nano/vea")


@pytest.mark.parametrize("inside", ["", "/transformer"])
def test_a_hub_id_that_cannot_be_fetched_says_so(inside: str) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve_folder(f"vedit-nobody/no-such-model{inside}")
    assert str(caught.value).startswith("vedit-nobody/no-such-model: ")
    assert "neither cached nor reachable" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_snapshot_resolves_to_its_subfolder(folder: Path, hub: Hub) -> None:
    """The download itself is huggingface_hub's; which files are asked for is ours."""
    assert resolve_folder("org/name/transformer") == folder
    assert resolve_folder("org/name", "transformer") == folder
    assert hub.asked[0] == hub.asked[1]
    assert hub.asked[0][0] == "org/name"
    assert all(pattern.startswith("transformer/") for pattern in hub.asked[0][1])


def test_a_part_may_be_absent_from_a_checkpoint_that_is_there(folder: Path, hub: Hub) -> None:
    assert not lacks_part(str(folder))
    assert lacks_part(str(folder.parent / "ref_embedder"))
    (folder.parent / "bare").mkdir()
    assert lacks_part(str(folder.parent / "bare"))
    assert not lacks_part("org/name/transformer")
    assert lacks_part("org/name/ref_embedder")
    assert lacks_part("org/name/bare")


def test_a_checkpoint_that_is_not_there_lacks_no_part(tmp_path: Path) -> None:
    assert not lacks_part(str(tmp_path / "nowhere" / "ref_embedder"))
    assert not lacks_part("vedit-nobody/no-such-model/ref_embedder")
    assert not lacks_part("alone")


def test_a_whole_model_comes_from_the_hub(folder: Path, hub: Hub) -> None:
    assert model_folder("org/name") == folder.parent
    assert hub.asked[0][1][0] == "*.json"


@pytest.mark.parametrize("path", ["runs/gone", "./org/name", "org/name/last.ckpt", "/org/name"])
def test_a_path_stays_a_path(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    (tmp_path / "runs").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id(path)
    assert model_folder(path) == Path(path)
    assert hub.asked == []
