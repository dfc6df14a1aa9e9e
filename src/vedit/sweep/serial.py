"""A grid as JSON, and back; an experiment as YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

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


class _Quoting(yaml.SafeDumper):
    """Quotes text that begins as a number does: readers differ on what `1e5` is."""

    def text(self, text: str) -> yaml.Node:
        """Represent a string."""
        style = "'" if text[:1] in "+-.0123456789" else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Quoting.add_representer(str, _Quoting.text)


def as_yaml(tree: Mapping[str, Any]) -> str:
    """An experiment's configuration as its file.

    Args:
        tree: plain data.

    Returns:
        YAML, which reads the same whatever its reader takes for a number.

    Examples:
        >>> print(as_yaml({"name": "2391e6463016", "steps": 3}), end="")
        name: '2391e6463016'
        steps: 3
    """
    text: str = yaml.dump(dict(tree), Dumper=_Quoting, sort_keys=False)
    return text


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
