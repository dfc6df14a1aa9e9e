"""Folders as diffusers and transformers write them load strictly, or fail in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from vedit.errors import WeightsError
from vedit.weights import (
    check_config,
    fingerprint_of,
    load_strictly,
    tensors,
)

WAN = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 8,
    "freq_dim": 8,
    "ffn_dim": 16,
    "num_layers": 2,
}


def wan() -> WanTransformer3DModel:
    return WanTransformer3DModel(**WAN)


def umt5() -> UMT5EncoderModel:
    sizes = {"d_model": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2, "d_kv": 4}
    return UMT5EncoderModel(UMT5Config(vocab_size=20, **sizes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    wan().save_pretrained(tmp_path / "transformer")
    return tmp_path / "transformer"


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


@pytest.mark.parametrize("build", [wan, umt5])
@pytest.mark.parametrize("shard", ["1GB", "3KB"])
def test_saved_folders_fill_a_module_on_meta(build, shard: str, tmp_path: Path) -> None:
    original = build()
    original.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "3KB")
    with torch.device("meta"):
        module = build()
    load_strictly(module, tensors(tmp_path), str(tmp_path))
    assert same(module, original)
    assert not any(p.is_meta for p in module.parameters())


def test_loading_assigns_without_a_copy() -> None:
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    given = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    load_strictly(module, given, "here")
    assert module.weight.data_ptr() == given["weight"].data_ptr()
    assert module.weight.requires_grad


def test_loading_casts_only_if_asked() -> None:
    module = nn.Linear(3, 2)
    given = {"weight": torch.randn(2, 3).half(), "bias": torch.randn(2).half()}
    load_strictly(module, given, "here")
    assert module.weight.dtype == torch.float16
    load_strictly(module, given, "here", dtype=torch.float32)
    assert module.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "held", [("shared",), ("encoder.embed_tokens",), ("shared", "encoder.embed_tokens")]
)
def test_tied_weights_load_under_any_of_their_names(held: tuple[str, ...]) -> None:
    original = umt5()
    given = dict(original.state_dict())
    tied = [given.pop(f"{name}.weight") for name in ("shared", "encoder.embed_tokens")][0]
    given |= {f"{name}.weight": tied for name in held}
    with torch.device("meta"):
        module = umt5()
    load_strictly(module, given, "here")
    assert same(module, original)
    assert module.shared.weight is module.encoder.embed_tokens.weight


def test_prefix_selects_and_strips(folder: Path) -> None:
    found = tensors(folder, prefix="condition_embedder.text_embedder.")
    names = {f"linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    assert found.keys() == names


def test_ignored_prefixes_belong_to_others() -> None:
    given = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "text.weight": torch.zeros(1)}
    load_strictly(nn.Linear(3, 2), given, "here", ignore=("text.",))
    with pytest.raises(WeightsError, match=r"^here: .*1 unexpected: text.weight\.$"):
        load_strictly(nn.Linear(3, 2), given, "here")


def test_every_misfit_is_in_one_line() -> None:
    module = nn.Sequential(*[nn.Linear(3, 2) for _ in range(4)])
    given = {f"{i}.weight": torch.zeros(2, 3) for i in range(1, 4)}
    given |= {"0.weight": torch.zeros(2, 5), "4.weight": torch.zeros(1)}
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_strictly(module, given, "folder")
    message = str(caught.value)
    assert message.startswith("folder: ")
    assert "\n" not in message
    assert "4 missing: 0.bias, 1.bias, 2.bias and 1 more" in message
    assert "1 unexpected: 4.weight" in message
    assert "0.weight is (2, 5), expected (2, 3)" in message
    after = module.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_a_truncated_file_is_named(folder: Path) -> None:
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model.safetensors: broken or cut short"):
        tensors(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    umt5().save_pretrained(tmp_path, max_shard_size="2KB")
    victim = sorted(tmp_path.glob("*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(WeightsError, match=f"index.json: .*{victim.name}"):
        tensors(tmp_path)


def test_a_folder_without_safetensors_says_what_it_wants(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(WeightsError, match=r"holds no weights.*pytorch_model.bin must be saved"):
        tensors(tmp_path)


def test_config_that_fits_passes(folder: Path) -> None:
    check_config(folder, {**WAN, "not_in_the_file": 1}, "model.backbone.init_args")


def test_config_that_disagrees_names_the_key(folder: Path) -> None:
    wrong = {**WAN, "num_layers": 30, "patch_size": [1, 2, 2]}
    with pytest.raises(WeightsError) as caught:
        check_config(folder, wrong, "model.backbone.init_args")
    assert "model.backbone.init_args.num_layers is 30 but the weights have 2" in str(caught.value)
    assert "patch_size" not in str(caught.value)


def test_a_missing_or_broken_config_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config.json: cannot be read as JSON"):
        check_config(folder, WAN, "x")
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config.json: no such file"):
        check_config(folder, WAN, "x")


def test_fingerprint_notices_weights_and_config(folder: Path) -> None:
    first = fingerprint_of(folder)
    assert fingerprint_of(folder) == first
    file = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file({name: value + 1e-3 for name, value in state.items()}, file)
    second = fingerprint_of(folder)
    assert second != first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eps": 0.5}))
    assert fingerprint_of(folder) not in {first, second}


def test_fingerprint_samples_large_files(tmp_path: Path) -> None:
    large = torch.zeros(4_000_000)
    save_file({"x": large}, tmp_path / "model.safetensors")
    first = fingerprint_of(tmp_path)
    save_file({"x": large + 1}, tmp_path / "model.safetensors")
    assert fingerprint_of(tmp_path) != first
