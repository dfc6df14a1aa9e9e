"""Folders of published weights become configurations, and say what they lack."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import WanTransformer3DModel
from tests.export.editors import SIZES as WAN
from tests.released.editor_folder import SIZES, save_editor, save_embedder, save_json
from tests.wan import randomised

from vedit.batch import Conditions, EditBatch
from vedit.cli import main
from vedit.editor import Editor
from vedit.editor.checkpoint import load_trained, make_system
from vedit.errors import WeightsError
from vedit.export.export import export
from vedit.released import read_released, recognise
from vedit.testing.denoiser import denoiser
from vedit.video import write_video


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "editor"
    save_editor(folder)
    return folder


def save_transformer(folder: Path, **changes: Any) -> Path:
    with torch.device("meta"):
        config = dict(WanTransformer3DModel(**SIZES).config)
    save_json(folder / "config.json", {**config, "_class_name": "WanTransformer3DModel", **changes})
    return folder


def test_an_editor_is_recognised_by_its_parts(complete: Path) -> None:
    found = read_released(complete)
    assert found.absent == {}
    assert found.model["backbone"]["init_args"]["num_layers"] == 2
    assert found.model["source"]["class_path"].endswith("SigmaScaledAdd")
    assert found.model["reference"]["init_args"]["time"] == "after"
    assert found.model["context"]["init_args"]["counts"] == {"image": 4, "video": 5, "reference": 6}
    sampler = {"steps": 50, "shift": 3.0, "spacing": "even"}
    assert found.model["sampler"]["init_args"] == sampler
    assert found.model["guidance"] == 1.0


def test_the_system_of_a_folder_has_its_weights(complete: Path, tmp_path: Path) -> None:
    folder = tmp_path / "editor"
    encoder = save_editor(folder, first=True)
    model = recognise(folder)
    model["context"]["init_args"]["dtype"] = "float32"
    system = make_system(model, "test")
    system.configure_model()
    assert system.model.injections["reference"].time == "before"
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(system.context.state_dict()[name], value, rtol=0, atol=0)
    video = {"source": torch.rand(1, 3, 5, 32, 48) * 2 - 1}
    image = torch.rand(3, 32, 48)
    batch = EditBatch(("make it blue",), ("key",), video, image[None, None], ((image,),))
    with torch.no_grad():
        system.eval()
        both = system.sample(system.conditions(batch), (1, 4, 2, 4, 6), seed=0, steps=1)
        alone = system.conditions(batch).without("reference")
        assert (system.sample(alone, (1, 4, 2, 4, 6), seed=0, steps=1) - both).abs().max() > 1e-3


def test_a_folder_edits_videos(complete: Path, tmp_path: Path) -> None:
    frames = torch.randint(0, 256, (6, 40, 60, 3), dtype=torch.uint8)
    write_video(tmp_path / "in.mp4", frames, 24)
    arguments = ["--checkpoint", complete, "--video", tmp_path / "in.mp4", "--steps", 1]
    arguments += ["--output", tmp_path / "out.mp4", "--instruction", "make it blue"]
    arguments += ["--size", 5, 32, 48, "--device", "cpu"]
    assert main(["edit", *map(str, arguments)]) == 0
    assert (tmp_path / "out.mp4").stat().st_size > 0
    editor = Editor.from_checkpoint(complete, "cpu")
    assert editor.conditions == ("instruction", "source", "reference")
    small = frames[:5, :32, :48]
    options: dict[str, Any] = {"steps": 1, "size": (5, 32, 48)}
    plain = editor.edit(small, "make it blue", fps=24, **options).frames
    other = editor.edit(small, "make it blue", reference=small[0].numpy(), fps=24, **options).frames
    assert plain.shape == small.shape
    assert not torch.equal(plain, other)


def test_it_is_exported_and_read_again(complete: Path, tmp_path: Path) -> None:
    lines = export(complete, "diffusers", tmp_path / "out")
    assert any(line.startswith(f"{complete / 'mllm_encoder'}: ") for line in lines)
    exported, original = (load_trained(folder) for folder in (tmp_path / "out", complete))
    assert exported.reference.ground == original.reference.ground == 1.0  # white
    ours, theirs = exported.system, original.system
    video = {"source": torch.rand(1, 3, 5, 32, 48) * 2 - 1}
    image = torch.rand(3, 32, 48)
    batch = EditBatch(("make it blue",), ("key",), video, image[None, None], ((image,),))
    with torch.no_grad():
        torch.testing.assert_close(ours.edit(batch, steps=2), theirs.edit(batch, steps=2))


def test_describe_knows_it(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--frames", "9", "--height", "32", "--width", "48"]
    assert main(["describe", "--checkpoint", str(complete), *size, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["segments"]] == ["target", "reference"]
    assert found["notes"] == []
    assert {"context.tower", "context.connector"} <= {row["name"] for row in found["parts"]}


def test_what_is_missing_is_said(
    complete: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    folder = shutil.copytree(complete, tmp_path / "editor")
    shutil.rmtree(folder / "mllm_encoder")
    shutil.rmtree(folder / "source_embedder")
    (folder / "ref_embedder" / "diffusion_pytorch_model.safetensors").unlink()
    size = ["--frames", "9", "--height", "32", "--width", "48"]
    assert main(["describe", "--checkpoint", str(folder), *size]) == 0
    printed = capsys.readouterr().out
    assert "no mllm_encoder: without it instructions cannot be encoded" in printed
    assert "no source_embedder: the model takes no source" in printed
    assert "no ref_embedder: no weights in it: the reference has no effect" in printed
    assert "\nreference " in printed
    with caplog.at_level(logging.INFO):
        assert "source" not in recognise(folder)
    assert "no source_embedder" in caplog.text
    with pytest.raises(WeightsError, match="is not complete: mllm_encoder: without it"):
        Editor.from_checkpoint(folder)


def test_a_text_encoder_without_its_config_is_missing(tmp_path: Path) -> None:
    save_transformer(tmp_path / "transformer")
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "tokenizer").mkdir()
    found = read_released(tmp_path)
    assert found is not None
    assert found.absent["text_encoder"] == "without it instructions cannot be encoded"
    with pytest.raises(WeightsError, match="is not complete: text_encoder: "):
        Editor.from_checkpoint(tmp_path)


def test_a_broken_scheduler_is_named(tmp_path: Path) -> None:
    save_transformer(tmp_path / "transformer")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"scheduler_config\.json: cannot be read as JSON"):
        read_released(tmp_path)


def test_describing_a_folder_takes_overrides(
    complete: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["describe", "--checkpoint", str(complete), "--print_config"]
    assert main([*given, "--model.source", "null"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"].get("source") is None
    assert main([*given, "--model.sorce", "null"]) == 2
    assert "model.sorce: unknown key. Did you mean 'source'?" in capsys.readouterr().err


def test_a_configuration_is_printed_for_training(
    complete: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    assert main(["describe", "--checkpoint", str(complete), "--print_config"]) == 0
    model = yaml.safe_load(capsys.readouterr().out)["model"]
    assert model["backbone"]["init_args"]["weights"] == str(complete / "transformer")
    assert model["weighting"]["class_path"] == "vedit.flow.weighting.Bell"


def test_a_bare_transformer_and_a_joined_one(tmp_path: Path) -> None:
    bare = save_transformer(tmp_path / "bare")
    found = read_released(bare)
    assert found.needed == ("text_encoder", "tokenizer", "vae")
    assert "source" not in found.model
    joined = save_transformer(tmp_path / "joined" / "transformer", in_channels=8)
    model = recognise(joined.parent)
    assert model["backbone"]["init_args"]["input_half"] == "first"
    assert model["backbone"]["init_args"]["in_channels"] == 4
    assert model["source"]["init_args"] == {"weights": str(joined), "weights_slice": "second"}


def test_halves_of_a_joined_convolution_are_loaded(tmp_path: Path) -> None:
    theirs = randomised(WanTransformer3DModel(out_channels=4, **{**WAN, "in_channels": 8}))
    theirs.save_pretrained(tmp_path / "transformer")
    x, source = torch.randn(2, 1, 4, 2, 4, 6)
    sequence = denoiser(tmp_path).sequence(x, torch.ones(1), Conditions({"source": source}))
    expected = theirs.patch_embedding(torch.cat([x, source], dim=1)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(sequence["target"].tokens, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "WanVACETransformer3DModel"}, "_class_name is WanVACE.*expected Wan"),
        ({"in_channels": 9}, "in_channels is 9 for latents of 4 channels, expected 4, or 8"),
        ({"added_kv_proj_dim": 32}, "an image-to-video model"),
        ({"qk_norm": "layer_norm"}, "qk_norm is layer_norm, expected rms_norm_across_heads"),
    ],
)
def test_a_model_that_cannot_run_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_transformer(tmp_path / "transformer", **changes)
    with pytest.raises(WeightsError, match=message):
        recognise(tmp_path)


def test_two_transformers_are_refused(tmp_path: Path) -> None:
    save_transformer(tmp_path / "transformer")
    save_transformer(tmp_path / "transformer_2")
    with pytest.raises(WeightsError, match="has two transformers"):
        recognise(tmp_path)


def test_other_folders_are_no_models(tmp_path: Path) -> None:
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "absent") is None
    save_embedder(tmp_path / "source_embedder")
    assert recognise(tmp_path) is None
    with pytest.raises(WeightsError, match=r"holds no checkpoint; .*published model"):
        Editor.from_checkpoint(tmp_path)


def test_a_model_on_the_hub_is_a_checkpoint(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The download itself is huggingface_hub's; here the snapshot lies on this disk already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(complete))
    size = ["--frames", "9", "--height", "32", "--width", "48"]
    assert main(["describe", "--checkpoint", "org/name", *size, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["segments"]] == ["target", "reference"]
    assert Editor.from_checkpoint("org/name", "cpu").conditions[0] == "instruction"


def test_parts_named_by_hand_may_be_absent_on_the_hub(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    folder = shutil.copytree(complete, tmp_path / "snapshot")
    shutil.rmtree(folder / "ref_embedder")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    model = recognise(complete)
    for slot, part in (("source", "source_embedder"), ("reference", "ref_embedder")):
        model[slot]["init_args"]["embed"]["init_args"]["weights"] = f"org/name/{part}"
    system = make_system(model, "test")
    with caplog.at_level(logging.WARNING, "vedit"):
        system.configure_model()
    assert "org/name/ref_embedder: no patch embedding there, it starts at zero" in caplog.text
    assert not system.model.injections["reference"].embed.proj.weight.any()
    assert system.model.injections["source"].embed.proj.weight.any()
