"""Every grid of `ablations/` is sound, at full and at nano scale."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from tests.configs.shrunk import CONFIGS, tiny
from tests.data.samples import sample, write_folder
from tests.tiny import ROOT, write_config

from vedit.cli import main
from vedit.cli.extends import compose
from vedit.cli.sweep_experiments import ComposedExperiments
from vedit.sweep.combine import matches
from vedit.sweep.grid import read_grid
from vedit.sweep.plan import Plan, make_plan
from vedit.sweep.report.layout import lay_out
from vedit.sweep.report.results import results

GRIDS = {path.stem: path for path in sorted((ROOT / "ablations").glob("*.yaml"))}
SCALES = {"full": (), "nano": (str(CONFIGS / "nano" / "sweep.yaml"),)}
CELLS = {
    "easyv2v_architecture": 4,
    "easyv2v_mask_route": 4,
    "easyv2v_ranks": 3,
    "kiwi_edit_consolidated": 10,
    "kiwi_edit_curriculum": 4,
    "kiwi_edit_images": 2,
    "kiwi_edit_reference": 2,
    "kiwi_edit_source_injection": 5,
    "mive_conditioning": 4,
    "mive_layers": 3,
    "query_count": 4,
    "query_model_sequence_source": 3,
    "reference_place": 2,
    "source_x_routing": 12,
}
GAPS = {"query_count", "query_model_sequence_source"}  # no paper has a number for any cell

EXPERIMENTS = ComposedExperiments()  # builds equal models once


@cache
def planned(name: str, scale: str) -> Plan:
    """The grid, every cell composed, checked and built on the meta device."""
    grid = read_grid(str(GRIDS[name].relative_to(ROOT)), EXPERIMENTS, SCALES[scale])
    return make_plan(grid, EXPERIMENTS)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", GRIDS)
def test_every_cell_is_sound(name: str, scale: str) -> None:
    plan = planned(name, scale)
    assert len(plan.grid.cells) == CELLS[name]
    assert len(plan.cells) == CELLS[name] * len(plan.grid.seeds)
    assert len({cell.digest for cell in plan.cells}) == len(plan.cells), "two cells are the same"
    for run in plan.runs.values():
        assert run.flops
        assert run.steps


@pytest.mark.parametrize("name", GRIDS)
def test_both_scales_ask_the_same(name: str) -> None:
    full, nano = planned(name, "full").grid, planned(name, "nano").grid
    assert full.cells == nano.cells
    assert full.baseline == nano.baseline
    assert full.published == nano.published
    for axis, options in full.axes.items():
        for option in options.values():
            twin = nano.axes[axis][option.name]
            if not option.files and not twin.files:
                started = {"model.init_without"}  # nano weights are there, and may not fit
                assert set(twin.overrides) - started == set(option.overrides)
            assert [stage.name for stage in twin.stages] == [s.name for s in option.stages]


@pytest.mark.parametrize("name", sorted(set(GRIDS) - GAPS))
def test_published_numbers_belong_to_one_cell_each(name: str) -> None:
    grid = planned(name, "full").grid
    assert grid.published
    for published in grid.published:
        assert "arXiv" in published.source
        assert published.note
        for row in published.rows:
            assert sum(matches(cell, row.options) for cell in grid.cells) == 1, row
            assert row.values


def test_stages_that_cells_share_are_trained_once() -> None:
    for name in ("kiwi_edit_source_injection", "kiwi_edit_reference", "reference_place",
                 "kiwi_edit_images", "query_model_sequence_source"):  # fmt: skip
        plan = planned(name, "nano")
        first = {plan.chain(cell.digest)[0].digest for cell in plan.cells}
        assert len(first) == len(plan.grid.seeds), name
    counts = planned("query_count", "nano")  # other queries need a stage 1 of their own
    assert len({counts.chain(cell.digest)[0].digest for cell in counts.cells}) == 4 * 2


def test_a_first_stage_starts_from_nothing_but_the_backbone() -> None:
    for name in GRIDS:
        if name.startswith(("easyv2v", "mive", "source")):
            continue
        for scale in SCALES:
            plan = planned(name, scale)
            for cell in plan.cells:
                first, *later = plan.chain(cell.digest)
                assert first.config["model"].get("init_from") is None
                assert all(run.config["model"]["init_from"] == run.after for run in later)


def test_cells_matched_by_compute_cost_the_same() -> None:
    for scale in SCALES:
        plan = planned("query_model_sequence_source", scale)
        chains = [plan.chain(cell.digest) for cell in plan.cells]
        totals = [sum(run.flops or 0 for run in chain) for chain in chains]
        dearest = max((run.flops or 0) / (run.steps or 1) for chain in chains for run in chain)
        assert max(totals) - min(totals) <= dearest  # half a step more, half a step less


@pytest.mark.parametrize("name", GRIDS)
def test_the_table_has_a_row_for_every_choice_down(name: str) -> None:
    sheet = lay_out(results(planned(name, "nano").grid, []))
    assert "before" not in sheet.axes  # the same for all cells
    down = len({line.options for line in sheet.lines})
    assert down == len(sheet.lines)
    assert sheet.caption
    assert any(column.published for column in sheet.columns) == (name not in GAPS)


def test_what_held_out_clips_show_fits_what_is_asked() -> None:
    for name in GRIDS:
        for cell in planned(name, "nano").cells:
            data = planned(name, "nano").runs[cell.digest].config["data"]
            asks = {"easyv2v_mask_route": "_masks"}.get(name, "")
            if name.startswith(("mive", "source_x", "reference", "kiwi_edit_reference")):
                asks = "_references"
            if name in ("kiwi_edit_curriculum", "kiwi_edit_consolidated"):
                asks = "_references"
            assert data["test"] == f"data/quickstart/test{asks}"
            assert data["validation"] == f"data/quickstart/val{asks}"
    for kind in ("references", "masks"):
        splits = compose([CONFIGS / "data" / f"{kind}.yaml"]).tree["splits"]
        outputs = {split["output"] for split in splits.values()}
        assert outputs == {f"data/quickstart/{split}_{kind}" for split in ("val", "test")}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples with every condition."""
    folder = tmp_path_factory.mktemp("shards")
    write_folder(folder, [sample(i, mask=True, reference=True) for i in range(4)])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", GRIDS)
def test_every_run_trains_a_step(
    name: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(name, "nano")
    seed = plan.grid.seeds[0]
    wanted = [run for cell in plan.cells if cell.seed == seed for run in plan.chain(cell.digest)]
    monkeypatch.chdir(tmp_path)
    for run in {run.digest: run for run in wanted}.values():
        tree = tiny(run.config, shards)
        config = write_config(tmp_path / f"{run.digest}.yaml", {**tree, "name": run.digest})
        assert main(["fit", "--config", str(config)]) == 0, run.title
