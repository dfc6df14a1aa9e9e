"""Every shipped experiment composes, fits its classes, and trains one step at tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.configs.shrunk import CONFIGS, tiny
from tests.data.samples import sample, write_folder
from tests.tiny import make_config, write_config

from vedit.cli import main
from vedit.cli.experiment import check, read
from vedit.cli.extends import compose
from vedit.flow.noise_levels import shifted_grid
from vedit.flow.sampler import euler_grid

EXPERIMENTS = sorted((CONFIGS / "experiments").rglob("*.yaml"))
KIWI_EDIT = sorted((CONFIGS / "experiments" / "kiwi_edit").glob("*.yaml"))
OVERLAYS = sorted((CONFIGS / "debug").glob("*.yaml"))
OTHERS = sorted((CONFIGS / "nano").glob("pretrain.yaml"))


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples with every condition, so that every injection runs."""
    folder = tmp_path_factory.mktemp("shards")
    write_folder(folder, [sample(i, mask=True, reference=True) for i in range(4)])
    return folder


@pytest.mark.parametrize("path", [*EXPERIMENTS, *OTHERS], ids=name_of)
def test_it_trains_one_step(
    path: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = read([str(path)])
    check(composed)  # as shipped: every key, class and type
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / "tiny.yaml", tiny(composed.tree, shards))
    assert main(["fit", "--config", str(config)]) == 0


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_its_run_is_named_after_it(path: Path) -> None:
    where = path.relative_to(CONFIGS / "experiments").with_suffix("")
    assert compose([path]).tree["name"] == str(where)


@pytest.mark.parametrize("path", KIWI_EDIT, ids=name_of)
def test_kiwi_edit_samples_at_noise_levels_of_its_training(path: Path) -> None:
    model = compose([path]).tree["model"]
    visited = euler_grid(50, 5.0, model["sampler"]["init_args"]["spacing"])[:-1]
    grid = shifted_grid(1000, model["noise_levels"]["init_args"]["shift"])
    assert (visited[:, None] - grid).abs().amin(dim=1).max() < 1e-6


@pytest.mark.parametrize("path", OVERLAYS, ids=name_of)
def test_a_debug_overlay_runs_over_an_experiment(
    path: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / "tiny.yaml", make_config(shards, Path("runs")))
    short = ["--trainer.max_steps", "1"]
    assert main(["fit", "--config", str(config), "--config", str(path), *short]) == 0
    if path.stem == "profile":
        assert list((tmp_path / "runs" / "debug_profile").glob("*.json"))
    else:
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("path", sorted((CONFIGS / "base").glob("*.yaml")), ids=name_of)
def test_a_base_fits_its_classes(path: Path, tmp_path: Path) -> None:
    shared = {
        "extends": [str(CONFIGS / "base" / "nano.yaml"), str(CONFIGS / "base" / "trainer.yaml")]
    }
    config = write_config(tmp_path / "both.yaml", shared)
    check(read([str(config), str(path)]))


def test_overfitting_learns_by_heart(
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / "tiny.yaml", make_config(shards, Path("runs")))
    overlay = str(CONFIGS / "debug" / "overfit.yaml")
    more = ["--trainer.max_steps", "100", "--model.optimizer.lr", "0.03"]
    assert main(["fit", "--config", str(config), "--config", overlay, *more]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    losses = [float(line.split("train/loss ")[1].split()[0]) for line in lines]
    print(losses)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
