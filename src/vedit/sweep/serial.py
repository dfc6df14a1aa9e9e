"""A grid as JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vedit.sweep.records import (
    Budget,
    Grid,
    Metric,
    Option,
    Published,
    PublishedRow,
    Stage,
    Table,
)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's content; None if there is none or it is broken."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def grid_from(tree: Mapping[str, Any]) -> Grid:
    """The grid that `dataclasses.asdict` made a tree of.

    Args:
        tree: may have been through JSON.

    Returns:
        The grid.
    """
    known: dict[str, Any] = dict(tree)
    known |= {key: tuple(tree[key]) for key in ("base", "cells", "seeds")}
    known["overlays"] = tuple(tree.get("overlays", ()))
    known["axes"] = {
        axis: {name: _option(option) for name, option in options.items()}
        for axis, options in tree["axes"].items()
    }
    known["metrics"] = tuple(Metric(**metric) for metric in tree["metrics"])
    table = tree["table"]
    rows, columns, shown = (tuple(table[key]) for key in ("rows", "columns", "metrics"))
    known["table"] = Table(rows, columns, shown, table["caption"])
    known["budget"] = None if tree["budget"] is None else Budget(**tree["budget"])
    known["video"] = None if tree["video"] is None else tuple(tree["video"])
    known["published"] = tuple(_published(paper) for paper in tree["published"])
    return Grid(**known)


def _option(tree: Mapping[str, Any]) -> Option:
    stages = tuple(
        Stage(s["name"], s["overrides"], tuple(s["files"]), s["share"]) for s in tree["stages"]
    )
    return Option(tree["name"], tree["overrides"], tuple(tree["files"]), stages)


def _published(tree: Mapping[str, Any]) -> Published:
    rows = tuple(PublishedRow(**row) for row in tree["rows"])
    return Published(tree["source"], tree["note"], rows)
