from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.sweep.report.sweeps import made, make_grid

from vedit.sweep.records import Grid, Outcome
from vedit.sweep.report.data import as_csv, as_json
from vedit.sweep.report.latex import latex
from vedit.sweep.report.layout import lay_out
from vedit.sweep.report.markdown import markdown, significance
from vedit.sweep.report.results import results

GAINS = {0: 2.0, 1: 1.0, 2: 4.0, 3: 4.6}


def cells_of(table: str) -> list[list[str]]:
    """The texts of a Markdown table, its rule left out."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[text.strip() for text in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [rows[0], *rows[2:]]


def written(grid: Grid, outcomes: list[Outcome]) -> str:
    return markdown(lay_out(results(grid, outcomes)))


def test_published_numbers_have_a_column_of_their_own() -> None:
    grid = make_grid()
    text = written(grid, made(grid, GAINS))
    header, *rows = cells_of(text)
    assert header[-1] == "score (published: Paper_A, Table 3)"
    assert [row[-1] for row in rows] == ["4.67", "–", "–", "7.05"]
    ours = [text for row in rows for text in row[:-1]]
    assert not any("4.67" in text or "7.05" in text for text in ours)
    assert "Published, not measured here: Paper_A, Table 3." in text


def test_figures_have_errors_marks_and_a_best() -> None:
    grid = make_grid()
    header, *rows = cells_of(written(grid, made(grid, GAINS)))
    assert header[:5] == ["training", "source", "accuracy ↑", "gain ↑", "loss ↓"]
    assert rows[0][:4] == ["full", "add", "0.20 ± 0.00", "2.5 ± 0.0"]
    assert rows[3][0] == "LoRA (base)"
    assert rows[3][3:5] == ["**5.1 ± 0.0**", "**0.179 ± 0.000**"]


def test_a_daggered_figure_is_significant_after_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.sweep.report import sweeps

    monkeypatch.setattr(sweeps, "KEYS", tuple(f"clip/{i}" for i in range(8)))
    grid = make_grid()
    found = results(grid, made(grid, GAINS))  # p = 2 / 2^8, three times over
    _, *rows = cells_of(markdown(lay_out(found)))
    assert [row[3][-1] for row in rows] == ["†", "†", "†", "*"]
    _, *tests = cells_of(significance(found))
    by_clip = [row for row in tests if row[2] == "gain"]
    assert [row[3:] for row in by_clip][0] == ["−2.6", "16", "0.008", "0.008", "0.023†"]


def test_unfinished_cells_are_shown_as_such() -> None:
    grid = make_grid()
    states = dict.fromkeys([(0, 0), (0, 1)], "failed")
    states |= dict.fromkeys([(1, 0), (1, 1)], "waiting") | {(2, 1): "running"}
    _, *rows = cells_of(written(grid, made(grid, GAINS, states)))
    assert rows[0][2:5] == ["*failed*"] * 3
    assert rows[1][2:5] == ["*waiting*"] * 3
    assert rows[2][3] == "4.5 (1 of 2 seeds)"


def test_an_axis_may_vary_across() -> None:
    grid = make_grid(columns=("source",))
    header, *rows = cells_of(written(grid, made(grid, GAINS)))
    assert header[0] == "training"
    assert [title for title in header if "gain" in title] == [
        "gain ↑ (source: add)", "gain ↑ (source: sequence)",
    ]  # fmt: skip
    assert len(rows) == 2
    assert header[-2:] == [
        "score, add (published: Paper_A, Table 3)", "score, sequence (published: Paper_A, Table 3)",
    ]  # fmt: skip
    assert [row[-2:] for row in rows] == [["4.67", "–"], ["–", "7.05"]]


def test_excluded_cells_are_empty_and_constant_axes_left_out() -> None:
    grid = make_grid(columns=("source",))
    _, *rows = cells_of(written(replace(grid, cells=grid.cells[1:]), made(grid, GAINS)))
    assert rows[0][1:4] == ["", "", ""]
    header, *rows = cells_of(written(replace(grid, cells=grid.cells[2:]), made(grid, GAINS)))
    assert (header[0], rows[0][0], len(rows)) == ("training", "LoRA (base)", 1)
    header, *rows = cells_of(written(replace(make_grid(), cells=grid.cells[2:]), []))
    assert header[0] == "source"


def test_markdown_lines_up() -> None:
    grid = make_grid()
    lines = [ln for ln in written(grid, made(grid, GAINS)).splitlines() if ln.startswith("|")]
    assert len({len(line) for line in lines}) == 1


def test_csv_has_a_line_for_each_cell() -> None:
    grid = make_grid()
    rows = list(csv.DictReader(io.StringIO(as_csv(results(grid, made(grid, GAINS))))))
    assert [row["training"] for row in rows] == ["full", "full", "LoRA", "LoRA"]
    assert float(rows[0]["gain"]) == pytest.approx(2.475)
    assert rows[0]["published: Paper_A, Table 3: score"] == "4.67"
    assert rows[3]["gain p"] == ""


def test_json_has_every_run_and_no_numbers_that_json_lacks() -> None:
    grid = make_grid()
    outcomes = made(grid, GAINS)
    outcomes[0] = replace(outcomes[0], metrics={"gain": float("nan")})
    content = json.loads(as_json(results(grid, outcomes)), parse_constant=pytest.fail)
    assert content["cells"][0]["runs"][0]["metrics"]["gain"] is None
    assert len(content["cells"][1]["runs"]) == 2
    assert content["published"][0]["rows"][0]["values"] == {"score": 4.67}
    assert content["cells"][3]["against_baseline"] == {}


def test_latex_escapes_and_groups() -> None:
    grid = make_grid()
    text = latex(lay_out(results(grid, made(grid, GAINS))), label="architecture")
    assert r"\multicolumn{1}{c}{published: Paper\_A, Table 3}" in text
    assert r"LoRA (base) & sequence & \textbf{0.46 $\pm$ 0.00}" in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows} == {5}
    assert text.isascii()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.slow
def test_latex_compiles(tmp_path: Path) -> None:
    grid = make_grid(columns=("source",))
    table = latex(lay_out(results(grid, made(grid, GAINS, {(0, 0): "failed"}))), "t")
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(head + table + "\\end{document}\n")
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True)
