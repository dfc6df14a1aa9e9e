"""Resolve `${}` in a merged configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vedit.cli.yaml_file import Tree
from vedit.errors import nearest

_WHOLE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_PLAIN = (int, float, bool, type(None))


class InterpolationError(Exception):
    """What cannot be resolved.

    Args:
        parts: the key that refers to it.
        problem: the message about that key.
    """

    def __init__(self, parts: Sequence[str], problem: str) -> None:
        super().__init__(problem)
        self.parts, self.problem = parts, problem


def resolve(tree: Tree) -> Tree:
    """Plain data with nothing left to resolve, which shares nothing with the tree.

    Args:
        tree: merged from all layers.

    Returns:
        The tree with every `${key}` replaced by that key's value.

    Raises:
        InterpolationError: if a reference leads nowhere, round in a circle, or makes no sense.

    Examples:
        >>> resolve({"a": {"b": 1}, "c": ["${a.b}", "${a}"]})
        {'a': {'b': 1}, 'c': [1, {'b': 1}]}
    """
    try:
        # Whole references to whole keys, as nearly all are: OmegaConf takes ten times as long.
        return dict(_copied(tree, tree, ()))
    except _Elaborate:
        return _by_omegaconf(tree)


class _Elaborate(Exception):
    """More than a look-up, or an error, which OmegaConf words."""


def _copied(value: Any, root: Tree, via: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        if "${" in value:
            return _looked_up(value, root, via)
        if value != "???":
            return value
    elif isinstance(value, dict):
        return {key: _copied(item, root, via) for key, item in value.items()}
    elif isinstance(value, list):
        return [_copied(item, root, via) for item in value]
    elif isinstance(value, _PLAIN):
        return value
    raise _Elaborate


def _looked_up(reference: str, root: Tree, via: tuple[str, ...]) -> Any:
    found = _WHOLE.fullmatch(reference)
    if found is None or reference in via:
        raise _Elaborate
    value: Any = root
    for part in found.group(1).split("."):
        if not isinstance(value, dict) or part not in value:
            raise _Elaborate
        value = value[part]
    return _copied(value, root, (*via, reference))


def _by_omegaconf(tree: Tree) -> Tree:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = OmegaConf.create(tree)
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise _worded(error, tree) from error
    return dict(resolved)  # type: ignore[arg-type]


def _worded(error: Exception, tree: Tree) -> InterpolationError:
    key = getattr(error, "full_key", None) or ""
    problem = " ".join(str(error).split("\n")[0].split())
    parts = key.replace("[", ".").replace("]", "").split(".")
    value = _value(tree, parts)
    shown = f"'{value}': " if isinstance(value, str) else ""
    missing = problem.split("'")[1] if "Interpolation key" in problem else ""
    hint = nearest(missing, _dotted(tree)) if missing else ""
    reason = f"no key '{missing}' to take the value from" if missing else problem
    return InterpolationError(parts, f"{shown}{reason}.{hint}")


def _value(tree: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        if isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        elif isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
        else:
            return None
    return tree


def _dotted(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, Mapping):
        return []
    keys = []
    for key, value in tree.items():
        keys += [f"{prefix}{key}", *_dotted(value, f"{prefix}{key}.")]
    return keys
