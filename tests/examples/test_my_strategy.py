"""The example package: found by class_path, trained for a step, saved and restored."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.samples import sample, write_folder
from tests.tiny import BACKBONE, CODEC, ROOT, write_config
from torch import nn

from vedit.backbones.base import BackboneSpec
from vedit.cli import main
from vedit.cli.experiment import check, read, system
from vedit.errors import ConfigError

EXAMPLE = ROOT / "examples" / "my_strategy"
EXPERIMENT = EXAMPLE / "configs" / "my_strategy.yaml"
SPEC = BackboneSpec(8, 4, (1, 2, 2), cross_attention=True)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny sizes and three samples with every condition; the classes stay as they are."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "shards", [sample(i, mask=True, reference=True) for i in range(3)])
    checkpoint = "vedit.callbacks.checkpoint.PeriodicCheckpoint"
    return write_config(
        tmp_path / "tiny.yaml",
        {
            "model": {
                "backbone": {"init_args": {**BACKBONE, "weights": None}},
                "codec": {"init_args": {**CODEC, "weights": None}},
                "context": {"init_args": {"buckets": 50}},
                "init_from": None,
                "lr_scheduler": None,
            },
            "data": {"train": "shards", "validation": None, "test": None, "batch_size": 3},
            "trainer": {
                "accelerator": "cpu",
                "precision": "32-true",
                "max_steps": 1,
                "limit_val_batches": 0,
                "log_every_n_steps": 1,
                "callbacks": [{"class_path": checkpoint, "init_args": {"every_n_steps": 1}}],
            },
        },
    )


def build(*files: Path) -> Any:
    torch.manual_seed(0)
    made = system(check(read([str(file) for file in files])))
    made.configure_model()
    return made


def test_the_experiment_fits_its_classes() -> None:
    tree = check(read([str(EXPERIMENT)]))["model"]
    parts = (tree["source"], tree["context"], tree["finetune"]["backbone"])
    assert [part["class_path"].partition(".")[0] for part in parts] == ["my_strategy"] * 3
    assert tree["mask"]["class_path"] == "vedit.conditioning.add.AddToTokens"  # from the quickstart


def test_a_misspelt_argument_of_a_foreign_class_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["fit", "--config", str(EXPERIMENT), "--model.context.bucket", "5"]) == 2
    assert "model.context" in (said := capsys.readouterr().err)
    assert "Did you mean 'buckets'?" in said
    assert said.count("\n") == 1


def test_it_trains_saves_and_restores(overlay: Path) -> None:
    before = build(EXPERIMENT, overlay).trained_state()
    assert main(["fit", "--config", str(EXPERIMENT), "--config", str(overlay)]) == 0
    path = Path("runs/my_strategy/checkpoints/last.ckpt")
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert saved.keys() == before.keys()
    changed = {key for key, tensor in saved.items() if not torch.equal(tensor, before[key])}
    assert "model.injections.source.motion.proj.weight" in changed
    assert "context.connector.words.weight" in changed
    trained = {key for key in changed if key.startswith("model.backbone.")}
    assert any(key.endswith("to_q.bias") for key in trained)
    assert not any(key.endswith(("to_q.weight", "proj.weight")) for key in trained)

    fresh = build(EXPERIMENT, overlay)
    backbone, bitfit = fresh.parts()["model.backbone"]
    frozen = {n: p.clone() for n, p in backbone.named_parameters() if not p.requires_grad}
    fresh.load_trained(saved, str(path))
    for key, tensor in fresh.trained_state().items():
        assert torch.equal(tensor, saved[key]), key
    for name, tensor in frozen.items():
        assert torch.equal(tensor, backbone.get_parameter(name)), name
    assert bitfit.saved(backbone).keys() == {
        name for name, p in backbone.named_parameters() if p.requires_grad
    }


def test_a_still_source_has_no_motion_and_a_moving_one_reaches_its_own_tokens() -> None:
    from my_strategy.motion import AppendWithMotion

    from vedit.conditioning.embed import PatchEmbed
    from vedit.tokens import TokenSequence

    injection, embed = AppendWithMotion(SPEC), PatchEmbed(SPEC, zero_init=False)
    nn.init.normal_(injection.motion.proj.weight)
    x_t, sigma = torch.randn(1, 4, 3, 2, 4), torch.rand(1)
    start = TokenSequence.of_target(x_t, sigma, lambda latents: embed(latents, None))
    still = torch.randn(1, 4, 1, 2, 4).expand(-1, -1, 3, -1, -1).contiguous()
    jump = still.clone()
    jump[:, :, 2, :, :2] += 1  # the left patch of the last frame
    base = start["target"].tokens
    assert torch.equal(injection(start, still, "source")["target"].tokens, base)
    moved = injection(start, jump, "source")
    assert moved.names == ("target", "source")
    touched = (moved["target"].tokens != base).any(-1)[0].nonzero().flatten().tolist()
    assert touched == [4]  # 2 tokens a frame


def test_words_are_hashed_alike_in_every_process_and_padding_is_not_seen() -> None:
    from my_strategy.hashed_words import HashedWords

    encoder = HashedWords(SPEC, buckets=50, max_words=4)
    context = encoder(["Make it sepia!", "make it", "a b c d e f"], {})
    assert context.tokens.shape == (3, 5, 8)
    assert context.valid.sum(1).tolist() == [4, 3, 5]
    torch.testing.assert_close(context.tokens[0, :3], context.tokens[1, :3])
    assert encoder.features(["sepia"], {})["ids"][0].tolist() == [1, 33, 0, 0, 0]
    assert encoder.null(2).valid.sum(1).tolist() == [1, 1]
    assert encoder.fingerprint() != HashedWords(SPEC, buckets=51).fingerprint()


def test_bitfit_leaves_matrices_alone_and_refuses_a_module_without_offsets() -> None:
    from my_strategy.bitfit import BitFit

    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    BitFit().apply(module)
    assert [n for n, p in module.named_parameters() if p.requires_grad] == ["0.bias"]
    saved = {name: tensor + 1 for name, tensor in BitFit().saved(module).items()}
    BitFit().restore(module, saved)
    assert torch.equal(module[0].bias, saved["0.bias"])
    with pytest.raises(ConfigError, match="no parameter of Linear is named bias"):
        BitFit().apply(nn.Linear(3, 3, bias=False))


def test_the_readme_shows_the_injection_as_it_is() -> None:
    """The same code; the file has longer docstrings."""

    def bare(text: str) -> str:
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = node.body[bool(ast.get_docstring(node)) :]
        return ast.dump(tree)

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    shown = [block for block in blocks if "class AppendWithMotion" in block]
    assert len(shown) == 1
    assert len([line for line in shown[0].splitlines() if line]) <= 20
    assert bare(shown[0]) == bare((EXAMPLE / "src" / "my_strategy" / "motion.py").read_text())


def test_the_test_imports_the_example_from_its_folder() -> None:
    import my_strategy

    assert EXAMPLE in Path(my_strategy.__file__).parents
    assert str(EXAMPLE / "src") in sys.path


def test_features_cached_for_another_encoder_do_not_stand_in_the_way(overlay: Path) -> None:
    """Hashing words costs nothing, so nothing is read from the cache, whatever made it."""
    from tests.data.test_cache import Letters

    from vedit.data.encode import encode_shards

    encode_shards(overlay.parent / "shards", None, Letters(), progress=lambda line: None)
    assert main(["fit", "--config", str(EXPERIMENT), "--config", str(overlay)]) == 0
