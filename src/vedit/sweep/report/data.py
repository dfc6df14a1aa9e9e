"""Results for other programs: CSV with a line for each cell, JSON with everything."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from vedit.sweep.records import Outcome
from vedit.sweep.report.layout import heading
from vedit.sweep.report.results import CellResult, Results


def as_csv(found: Results) -> str:
    """A line for each cell; columns that begin with "published:" are a paper's.

    Args:
        found: what the sweep found.

    Returns:
        The file's content.
    """
    rows = [_row(found, cell) for cell in found.cells]
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_json(found: Results) -> str:
    """Everything: cells, runs, statistics, and what was published.

    Args:
        found: what the sweep found.

    Returns:
        The file's content.
    """
    grid = found.grid
    content = {
        "name": grid.name,
        "title": grid.title,
        "file": grid.file,
        "seeds": list(grid.seeds),
        "metrics": [asdict(metric) for metric in grid.metrics],
        "baseline": dict(grid.baseline),
        "cells": [_cell(cell) for cell in found.cells],
        "published": [
            {
                "source": published.source,
                "note": published.note,
                "rows": [
                    {"cell": dict(row.options), "values": dict(row.values)}
                    for row in published.rows
                ],
            }
            for published in grid.published
        ],
    }
    return json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def mean_cost(outcomes: Sequence[Outcome], name: str) -> float | None:
    """Mean of what is known of a cost: "seconds", "parameters", "tokens" or "flops"."""
    known = [value for outcome in outcomes if (value := getattr(outcome, name)) is not None]
    return fmean(known) if known else None


def _finite(value: Any) -> Any:
    """The value with null in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(found: Results, cell: CellResult) -> dict[str, Any]:
    row: dict[str, Any] = {axis: cell.options.get(axis, "") for axis in found.grid.axes}
    row |= {"base": int(cell.baseline), "state": cell.progress or "finished"}
    for metric in found.grid.metrics:
        value = cell.estimates.get(metric.name)
        compared = cell.comparisons.get(metric.name)
        row |= {
            metric.name: None if value is None else value.mean,
            f"{metric.name} error": None if value is None else value.error,
            f"{metric.name} seeds": 0 if value is None else value.count,
            f"{metric.name} difference": None if compared is None else compared.difference,
            f"{metric.name} p": None if compared is None else compared.permutation,
            f"{metric.name} p Wilcoxon": None if compared is None else compared.wilcoxon,
            f"{metric.name} p Holm": None if compared is None else compared.adjusted,
        }
    for cost in ("parameters", "tokens", "flops", "seconds"):
        row[cost] = mean_cost(cell.finished if cost == "seconds" else cell.outcomes, cost)
    for published, values in zip(found.grid.published, cell.published, strict=True):
        names = dict.fromkeys(name for given in published.rows for name in given.values)
        row |= {f"{heading(published)}: {name}": values.get(name) for name in names}
    return row


def _cell(cell: CellResult) -> dict[str, Any]:
    return {
        "name": cell.name,
        "options": dict(cell.options),
        "baseline": cell.baseline,
        "state": cell.progress or "finished",
        "estimates": {name: asdict(value) for name, value in cell.estimates.items()},
        "against_baseline": {name: asdict(value) for name, value in cell.comparisons.items()},
        "published": [dict(values) for values in cell.published],
        "runs": [_run(outcome) for outcome in cell.outcomes],
    }


def _run(outcome: Outcome) -> dict[str, Any]:
    return {
        "seed": outcome.cell.seed,
        "digest": outcome.cell.digest,
        "state": outcome.state,
        "metrics": dict(outcome.metrics),
        "per_clip": {name: dict(values) for name, values in outcome.per_clip.items()},
        "folder": str(outcome.folder),
        "seconds": outcome.seconds,
        "parameters": outcome.parameters,
        "tokens": outcome.tokens,
        "flops": outcome.flops,
        "note": outcome.note,
    }
