"""Grid files: what they expand to, and that every mistake is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vedit.cli.sweep_experiments import ComposedExperiments
from vedit.sweep.grid import read_grid
from vedit.sweep.options import keys_written
from vedit.sweep.plan import cell_name
from vedit.sweep.problems import GridErrors
from vedit.sweep.records import Budget, Grid
from vedit.sweep.serial import grid_from

SIZE = {"s": {"model.backbone.num_layers": 1}, "l": {"model.backbone.num_layers": 9}}
SOURCE = {"sequence": None, "channels": {"model.source": {"class_path": "AddToTokens"}}}
MASK = {"no": {"model.mask": None}, "yes": {"model.mask": {"class_path": "AddToTokens"}}}
ROUTE = {"add": None, "append": {"model.extra.route": 1}}


def grid(folder: Path, overlays: tuple[str, ...] = (), **tree: Any) -> Grid:
    (folder / "base.yaml").write_text("model: {}\n")
    path = folder / "grid.yaml"
    tree = {"base": "base.yaml", **tree}
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return read_grid(str(path), ComposedExperiments(), overlays)


def names(found: Grid) -> list[str]:
    return [cell_name(cell) for cell in found.cells]


def problems(folder: Path, **tree: Any) -> list[str]:
    with pytest.raises(GridErrors) as raised:
        grid(folder, **tree)
    return [line.removeprefix(f"{folder}/grid.yaml: ") for line in raised.value.problems]


def test_axes_make_a_product_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = grid(tmp_path, axes={"source": SOURCE, "size": SIZE}, seeds=[3, 4])
    assert names(found) == [
        "source=sequence,size=s",
        "source=sequence,size=l",
        "source=channels,size=s",
        "source=channels,size=l",
    ]
    assert found.seeds == (3, 4)
    assert found.name == "grid"
    assert found.baseline == {"source": "sequence", "size": "s"}
    assert found.table.rows == ("source", "size")


def test_zipped_axes_go_together(tmp_path: Path) -> None:
    found = grid(
        tmp_path, axes={"mask": MASK, "source": SOURCE, "size": SIZE}, zip=["source", "size"]
    )
    assert names(found) == [
        "mask=no,source=sequence,size=s",
        "mask=no,source=channels,size=l",
        "mask=yes,source=sequence,size=s",
        "mask=yes,source=channels,size=l",
    ]


def test_rows_are_listed(tmp_path: Path) -> None:
    rows = [{"source": "channels", "size": ["s", "l"]}, {"source": "sequence", "size": "l"}]
    found = grid(tmp_path, axes={"source": SOURCE, "size": SIZE}, rows=rows)
    assert names(found) == [
        "source=channels,size=s",
        "source=channels,size=l",
        "source=sequence,size=l",
    ]


def test_an_axis_is_left_out_where_it_does_not_apply(tmp_path: Path) -> None:
    found = grid(tmp_path, axes={"mask": MASK, "route": ROUTE}, when={"route": {"mask": "yes"}})
    assert names(found) == ["mask=no", "mask=yes,route=add", "mask=yes,route=append"]


def test_excluded_cells_are_gone(tmp_path: Path) -> None:
    dropped = [{"source": "channels", "size": ["l", "s"]}, {"size": "l"}]
    found = grid(tmp_path, axes={"source": SOURCE, "size": SIZE}, exclude=dropped)
    assert names(found) == ["source=sequence,size=s"]


def test_an_overlay_puts_the_grid_at_another_scale(tmp_path: Path) -> None:
    overlay = tmp_path / "small" / "scale.yaml"
    overlay.parent.mkdir()
    overlay.write_text("sweep: {seeds: [0, 1], budget: {steps: 5}}\ntrainer: {max_steps: 2}\n")
    tree: dict[str, Any] = {
        "axes": {"size": SIZE},
        "seeds": [7],
        "budget": {"steps": 9000},
        "at": {"small/scale": {"axes": {"size": {"l": {"model.backbone.num_layers": 2}}}}},
    }
    small = grid(tmp_path, (str(overlay),), **tree)
    assert (small.seeds, small.budget) == ((0, 1), Budget(steps=5))
    assert small.axes["size"]["l"].overrides == {"model.backbone.num_layers": 2}
    assert small.axes["size"]["s"].overrides == {"model.backbone.num_layers": 1}
    assert small.base[-1] == str(overlay)
    full = grid(tmp_path, **tree)
    assert (full.seeds, full.budget) == ((7,), Budget(steps=9000))
    assert full.axes["size"]["l"].overrides == {"model.backbone.num_layers": 9}


def test_a_grid_survives_json(tmp_path: Path) -> None:
    import json
    from dataclasses import asdict

    found = grid(
        tmp_path,
        axes={"size": {**SIZE, "late": {"stages": [{"name": "warm", "share": 0.5}]}}},
        metrics={"gain": "held_out.psnr_gain"},
        budget={"steps": 4, "match": "flops"},
        video=[9, 64, 112],
        published=[{"source": "T", "rows": [{"cell": {"size": "l"}, "values": {"score": 3}}]}],
    )
    assert grid_from(json.loads(json.dumps(asdict(found)))) == found


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        base="bsae.yaml",
        axes={"source": {**SOURCE, "odd": {"modle.source": None}}, "size": SIZE},
        exclude=[{"source": "chanels"}],
        seeds=["one"],
        metrics={"gain": {"key": "held_out.psnr_gain", "best": "high"}},
        table={"rows": ["sorce"]},
        budget={"steps": 3, "flops": 4},
        colour="red",
    )
    assert "colour: unknown key. There are: title, name, base" in found[0]
    told = "\n".join(found)
    for expected in (
        "axes.source.odd.modle.source: unknown key. There are: model, data, trainer",
        "exclude.0.source: no option is called 'chanels'. Did you mean 'channels'?",
        "bsae.yaml. Did you mean 'base.yaml'?",
        "seeds: expected a list of whole numbers, got ['one']",
        "metrics.gain.best: unknown key. Did you mean 'better'?",
        "table.rows: no axis is called 'sorce'. Did you mean 'source'?",
        "budget: expected either steps or flops, got steps and flops",
    ):
        assert expected in told


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (
            {"axes": {"source": SOURCE, "time": {"late": {"model.source.time": "after"}}}},
            "axes: 'source' (channels) and 'time' (late) both write model.source; "
            "make them one axis",
        ),
        (
            {"axes": {"size": SIZE}, "exclude": [{"size": ["s", "l"]}]},
            "the grid has no cells: `exclude` drops all 2",
        ),
        ({"axes": {"size": {}}}, "axes.size: has no options"),
        (
            {"axes": {"size": SIZE, "mask": {"a": None}}, "zip": ["size", "mask"]},
            "zip: axes go together option by option, but size has 2, mask has 1",
        ),
        (
            {"axes": {"seed": {"a": {"seed_everything": 3}}}},
            "axes.seed.a.seed_everything: is not an option's to set: list the seeds under `seeds`",
        ),
        (
            {"axes": {"n": {"a": {"trainer.max_steps": 3}}}, "budget": {"steps": 3}},
            "axes.n.a.trainer.max_steps: is the budget's to set",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path: Path, tree: dict[str, Any], expected: str) -> None:
    assert problems(tmp_path, **tree) == [expected]


def test_axes_that_never_meet_may_write_the_same_key(tmp_path: Path) -> None:
    late = {"late": {"model.source.time": "after"}}
    rows = [{"source": "channels"}, {"time": "late"}]
    assert len(grid(tmp_path, axes={"source": SOURCE, "time": late}, rows=rows).cells) == 2


def test_keys_are_compared_whatever_way_they_are_written() -> None:
    nested = {"model": {"source": {"init_args": {"time": "after"}}}}
    assert list(keys_written(nested)) == list(keys_written({"model.source.time": "after"}))
    assert list(keys_written({"model.source.class_path": "A"})) == ["model.source"]
