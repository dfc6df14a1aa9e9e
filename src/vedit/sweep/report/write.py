"""The report of a sweep: tables for people, papers and programs, and a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vedit.sweep.records import Grid, Outcome
from vedit.sweep.report.data import as_csv, as_json
from vedit.sweep.report.latex import latex
from vedit.sweep.report.layout import lay_out
from vedit.sweep.report.markdown import markdown, significance
from vedit.sweep.report.results import results


def write_report(grid: Grid, outcomes: Sequence[Outcome], folder: str | Path) -> str:
    """Write `table.md`, `table.tex`, `table.csv`, `results.json` and `report.html`.

    Cells that have not finished are in all of them, and say so.

    Args:
        grid: that was run.
        outcomes: what became of its cells.
        folder: to write to.

    Returns:
        The table in Markdown, and where the page is.
    """
    from vedit.sweep.report.page import page

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = results(grid, outcomes)
    sheet = lay_out(found)
    table = markdown(sheet)
    tests = significance(found)
    written = {
        "table.md": f"{table}\n{tests}" if tests else table,
        "table.tex": latex(sheet, label=grid.name),
        "table.csv": as_csv(found),
        "results.json": as_json(found),
        "report.html": page(found, sheet, folder),
    }
    for name, text in written.items():
        partial = folder / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, folder / name)
    return f"{table}\nreport: {folder / 'report.html'}"
