"""The axes of a grid: named options, each a set of overrides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vedit.errors import ConfigError
from vedit.sweep.problems import Problems
from vedit.sweep.records import Option, Stage

Find = Callable[[str], str]

RESERVED = {
    "name": "runs are named by their content",
    "seed_everything": "list the seeds under `seeds`",
    "ckpt_path": "runs resume by themselves",
}
"""Keys that are the sweep's own."""

TOP = ("model", "data", "trainer")


def read_axes(tree: Any, find: Find, problems: Problems) -> dict[str, dict[str, Option]]:
    """The options of every axis.

    Args:
        tree: what the grid has under `axes`.
        find: the file that a name under `extends` means.
        problems: where mistakes go.

    Returns:
        Option by name by axis.
    """
    axes: dict[str, dict[str, Option]] = {}
    for axis, options in problems.mapping("axes", tree).items():
        key = f"axes.{axis}"
        named = problems.mapping(key, options)
        if not named:
            problems.add(key, "has no options")
        axes[axis] = {
            name: _option(f"{key}.{name}", name, value, find, problems)
            for name, value in named.items()
        }
    return axes


def _option(key: str, name: str, value: Any, find: Find, problems: Problems) -> Option:
    tree = problems.mapping(key, value)
    files = read_files(f"{key}.extends", tree.pop("extends", None), find, problems)
    listed = problems.listed(f"{key}.stages", tree.pop("stages", None), of=Mapping)
    stages = tuple(
        _stage(f"{key}.stages.{i}", f"stage {i + 1}", dict(stage), find, problems)
        for i, stage in enumerate(listed)
    )
    return Option(name, read_overrides(key, tree, problems), files, stages)


def _stage(key: str, name: str, tree: dict[str, Any], find: Find, problems: Problems) -> Stage:
    name = str(tree.pop("name", name))
    files = read_files(f"{key}.extends", tree.pop("extends", None), find, problems)
    share = tree.pop("share", None)
    if share is not None and not (isinstance(share, float) and 0 < share < 1):
        problems.add(f"{key}.share", f"expected a part of the budget between 0 and 1, got {share}")
        share = None
    return Stage(name, read_overrides(key, tree, problems), files, share)


def read_files(key: str, value: Any, find: Find, problems: Problems) -> tuple[str, ...]:
    """The files that names mean; those that are not there are noted."""
    found = []
    for name in problems.listed(key, value):
        try:
            found.append(find(name))
        except ConfigError as error:
            problems.add(key, str(error).removeprefix(f"{problems.file}: extends: "))
    return tuple(found)


def read_overrides(key: str, tree: Any, problems: Problems) -> dict[str, Any]:
    """Dotted keys with values; those that are the sweep's own, or no key's, are noted."""
    overrides: dict[str, Any] = {}
    for name, value in problems.mapping(key, tree).items():
        top = name.partition(".")[0].removesuffix("+")
        if top in RESERVED:
            problems.add(f"{key}.{name}", f"is not an option's to set: {RESERVED[top]}")
        elif top not in TOP:
            problems.known(key, name, TOP)
        else:
            overrides[name] = value
    return overrides


def keys_written(overrides: Mapping[str, Any]) -> dict[str, str]:
    """What overrides write to, in a form that compares, with the key as it was written.

    `init_args` is left out and a class stands for all its arguments; appending to a list leaves
    room for others.

    Args:
        overrides: dotted keys with values.

    Returns:
        The key as written, by the place it writes to.

    Examples:
        >>> keys_written({"model.source": {"init_args": {"time": "before"}}, "trainer.callbacks+": 1})
        {'model.source.time': 'model.source'}
        >>> keys_written({"model.source.class_path": "A", "trainer": {"max_steps": 3}})
        {'model.source': 'model.source.class_path', 'trainer.max_steps': 'trainer'}
    """  # noqa: E501
    written: dict[str, str] = {}
    for key, value in overrides.items():
        for place in _places(key.split("."), value):
            parts = [part for part in place if part != "init_args"]
            if parts[-1] == "class_path":
                parts = parts[:-1]
            if not parts[-1].endswith("+"):
                written[".".join(parts)] = key
    return written


def _places(parts: list[str], value: Any) -> list[list[str]]:
    if not isinstance(value, Mapping) or "class_path" in value or not value:
        return [parts]
    return [place for name, inner in value.items() for place in _places([*parts, str(name)], inner)]
