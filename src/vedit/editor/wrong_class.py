"""Which class or argument of a stored configuration this installation does not have."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from vedit.errors import nearest


def find_wrong(tree: Any, key: str, takes: Any = None) -> str | None:
    """The first class or argument that does not exist, looked for only after parsing failed.

    Args:
        tree: part of a configuration, class paths written out.
        key: dotted place of the tree.
        takes: the class whose arguments the tree holds, if it holds those of one.

    Returns:
        The place, what is wrong there and the nearest name; None if all names exist.
    """
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping):
        return None
    found, path = None, tree.get("class_path")
    if takes is not None and (wrong := _unknown(tree, key, takes)):
        return wrong
    if isinstance(path, str):
        found, wrong = _imported(path)
        if wrong:
            return f"{key}.class_path: '{path}': {wrong}"
    for name, value in tree.items():
        inside = found if name == "init_args" else None
        if wrong := find_wrong(value, f"{key}.{name}", inside):
            return wrong
    return None


def _unknown(tree: Mapping[Any, Any], key: str, takes: Any) -> str | None:
    taken = inspect.signature(takes).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return None
    wrong = next((str(name) for name in tree if name not in taken), None)
    if wrong is None:
        return None
    known = nearest(wrong, taken) or f" There are: {', '.join(taken)}"
    return f"{key}.{wrong}: unknown key.{known}"


def nearest_module(name: str) -> str:
    """The hint for a module that does not exist, where a part of its name is misspelt.

    Args:
        name: dotted name.

    Returns:
        As `nearest`, with the whole name up to the misspelt part; empty if none is close, or if the
        module exists and something that it imports does not.
    """
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            package = import_module(".".join(parts[:length]))
        except ImportError:
            continue
        inside = [info.name for info in iter_modules(getattr(package, "__path__", []))]
        close = {nearest(parts[length], [other]): other for other in inside}
        best = close.get(nearest(parts[length], inside))
        if best is None or best == parts[length]:
            return ""
        return f" Did you mean '{'.'.join([*parts[:length], best, *parts[length + 1 :]])}'?"
    return ""


def _imported(path: str) -> tuple[Any, str | None]:
    module_name, _, name = path.rpartition(".")
    try:
        module = import_module(module_name)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        hint = nearest_module(module_name)
        return None, f"cannot import {module_name or 'it'} ({reason}).{hint}"
    if not hasattr(module, name):
        return None, f"{module_name} has no '{name}'.{nearest(name, dir(module))}"
    found = getattr(module, name)
    return (found if isinstance(found, type) else None), None
