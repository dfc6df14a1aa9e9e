"""Which numbers a run will leave behind, told from its configuration, and reading them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vedit.errors import nearest
from vedit.sweep.experiments import Tree, data_of
from vedit.sweep.records import Metric

REPORT = "vedit.callbacks.report.EditReport"
SPEED = ("samples_per_second", "tokens_per_second", "data_seconds", "step_seconds")


def missing_metric(metric: Metric, checked: Tree) -> str:
    """Why no run of a configuration would give a metric, or an empty text.

    Callbacks and systems from elsewhere may log anything: with one of them, scalars that are not
    known here are let through, unless it names what it logs in a class attribute `metrics`.

    Args:
        metric: as the grid asks.
        checked: the configuration, class names in full.

    Returns:
        The problem as a sentence without its subject.
    """
    known, complete = known_metrics(checked)
    if metric.key in known or metric.key.startswith("per_edit.") and "samples" in known:
        return ""
    if metric.key.startswith("held_out.") and "samples" not in known:
        lacking = (
            "data.test names none"
            if not data_of(checked).get("test")
            else f"no callback is {REPORT}"
        )
        return f"'{metric.key}' is measured on test data, but {lacking}"
    if metric.key.startswith("val/") and "val/loss" not in known:
        return f"'{metric.key}' is logged in validation, but there is none"
    if not complete:
        return ""
    hint = nearest(metric.key, known) or f" There are: {', '.join(sorted(known))}"
    return f"no run gives '{metric.key}'.{hint}"


def known_metrics(checked: Tree) -> tuple[set[str], bool]:
    """The metrics that a configuration's runs give, and whether those are all.

    Args:
        checked: the configuration, class names in full.

    Returns:
        Keys of the report and names of scalars; whether there are certainly no others.
    """
    from vedit.evaluation.report import RunFacts, as_json

    trainer, data = checked["trainer"], data_of(checked)
    own_data = "class_path" in (checked.get("data") or {})
    paths = [str(part.get("class_path")) for part in parts(trainer.get("callbacks"))]
    known, complete = {"train/loss"}, not own_data and "class_path" not in checked["model"]
    if data.get("validation") and trainer.get("limit_val_batches", 1) != 0:
        levels = _imported("vedit.system").VALIDATION_SIGMAS
        known |= {"val/loss", *(f"val/loss_at_{level}" for level in levels)}
    if data.get("test") and REPORT in paths:
        empty = as_json([], RunFacts())
        known |= {f"held_out.{name}" for name in empty["held_out"]}
        known |= {
            name for name, value in empty.items() if name in ("samples", "train_seconds", "steps")
        }
    if any(path.endswith("Throughput") for path in paths):
        known |= {f"speed/{name}" for name in SPEED}
    for path in paths:
        declared = _declared(path)
        known |= set(declared or ())
        complete &= declared is not None or path.startswith("vedit.")
    return known, complete


def parts(value: Any) -> Iterator[Tree]:
    """The classes of a setting that takes one or several of them."""
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, dict) and "class_path" in part:
            yield part


def read_metrics(folder: Path, metrics: tuple[Metric, ...]) -> dict[str, float]:
    """The numbers that a run has left, by the metrics' names; those not there are missing.

    Args:
        folder: of the run.
        metrics: to read.

    Returns:
        The last value of each.
    """
    report = read_report(folder)
    found = {m.name: _number(report, m.key.split(".")) for m in metrics}
    scalars = {m.key for m in metrics if found[m.name] is None}
    if scalars:
        from vedit.evaluation.curve import read_losses

        curves = read_losses(folder, sorted(scalars))
        last = {m.name: curves[m.key][-1][1] for m in metrics if m.key in curves}
        found |= last
    return {name: value for name, value in found.items() if value is not None}


def read_samples(folder: Path, metrics: tuple[Metric, ...]) -> dict[str, dict[str, float]]:
    """The same numbers sample by sample, where the report has them.

    Args:
        folder: of the run.
        metrics: to read.

    Returns:
        Metric's name -> sample -> number.
    """
    rows = read_report(folder).get("per_sample") or {}
    found: dict[str, dict[str, float]] = {}
    for metric in metrics:
        last = metric.key.rpartition(".")[2]
        if metric.key == f"held_out.{last}":
            values = {key: float(row[last]) for key, row in rows.items() if last in row}
            found |= {metric.name: values} if values else {}
    return found


def read_report(folder: Path) -> dict[str, Any]:
    """A run's `report.json`; empty if there is none."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _number(tree: Any, parts: list[str]) -> float | None:
    for part in parts:
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return float(tree) if isinstance(tree, (int, float)) and not isinstance(tree, bool) else None


def _declared(path: str) -> tuple[str, ...] | None:
    module, _, name = path.rpartition(".")
    found = getattr(getattr(_imported(module), name, None), "metrics", None)
    return tuple(found) if isinstance(found, (tuple, list)) else None


def _imported(module: str) -> Any:
    from importlib import import_module

    return import_module(module)
