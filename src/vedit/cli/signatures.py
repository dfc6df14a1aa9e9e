"""Find misspelt keys from source text alone, before the seconds that importing torch takes.

Only what the text of a constructor settles is reported; everything else is left to
`vedit.cli.schema`, which imports the classes.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vedit.cli.extends import Composed
from vedit.cli.renamed import instead_of
from vedit.errors import nearest

TOP = {
    "model": "vedit.system.EditSystem",
    "data": "vedit.data.module.EditData",
    "trainer": "lightning.pytorch.trainer.trainer.Trainer",
}


@dataclass(frozen=True)
class Signature:
    """Names that a constructor takes.

    Attributes:
        names: of its arguments.
        complete: False if it may take more, which its text does not tell.
    """

    names: tuple[str, ...]
    complete: bool


def find_misspelt(composed: Composed) -> None:
    """Look at every key of `model`, `data` and `trainer`.

    Args:
        composed: the configuration, none of its classes imported.

    Raises:
        ConfigError: at the first key that its constructor certainly does not take.
    """
    for key, path in TOP.items():
        tree = composed.tree.get(key)
        if not isinstance(tree, Mapping):
            continue
        if "class_path" not in tree:
            _check_keys(composed, key, tree, signature(path))
        _walk(composed, key, tree)


def _walk(composed: Composed, key: str, tree: Any) -> None:
    if isinstance(tree, list):
        for index, item in enumerate(tree):
            _walk(composed, f"{key}.{index}", item)
    if not isinstance(tree, Mapping):
        return
    path, arguments = tree.get("class_path"), tree.get("init_args")
    if isinstance(path, str) and isinstance(arguments, Mapping):
        _check_keys(composed, f"{key}.init_args", arguments, signature(full_path(path)))
    for name, value in tree.items():
        _walk(composed, f"{key}.{name}", value)


def _check_keys(
    composed: Composed, key: str, tree: Mapping[str, Any], known: Signature | None
) -> None:
    if known is None or not known.complete:
        return
    for name in tree:
        if name not in known.names:
            close = instead_of(str(name)) or nearest(str(name), known.names)
            rest = "" if close else f" There are: {', '.join(known.names) or 'none'}"
            raise composed.error(f"{key}.{name}", f"unknown key.{close}{rest}")


def full_path(name: str) -> str:
    """The dotted path of a short class name, if the package has exactly one such class."""
    if "." in name:
        return name
    found = _classes().get(name, [])
    return found[0] if len(found) == 1 else name


@cache
def signature(path: str) -> Signature | None:
    """What the constructor of the class at a dotted path takes; None if its text is not found."""
    module, _, name = path.rpartition(".")
    tree = _parsed(module)
    return None if tree is None else _of_class(tree, module, name)


def _of_class(tree: ast.Module, module: str, name: str) -> Signature | None:
    found = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    if not found:
        return None
    functions = [n for n in found[0].body if isinstance(n, ast.FunctionDef)]
    init = next((f for f in functions if f.name == "__init__"), None)
    if init is None and found[0].decorator_list:  # a dataclass: its fields and those it inherits
        return None
    if init is not None:
        arguments = init.args
        positional = [*arguments.posonlyargs, *arguments.args][1:]
        names = tuple(a.arg for a in [*positional, *arguments.kwonlyargs])
        if arguments.kwarg is None:
            return Signature(names, True)
    else:
        names = ()
    parent = _of_parent(tree, module, found[0])
    if parent is None:
        return Signature(names, False)
    return Signature((*names, *parent.names), parent.complete)


def _of_parent(tree: ast.Module, module: str, found: ast.ClassDef) -> Signature | None:
    if not found.bases or not isinstance(found.bases[0], ast.Name):
        return None
    name = found.bases[0].id
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return signature(f"{node.module}.{alias.name}")
    return _of_class(tree, module, name)


@cache
def _parsed(module: str) -> ast.Module | None:
    parts = module.split(".")
    spec = importlib.util.find_spec(parts[0]) if parts[0] else None
    if spec is None or not spec.submodule_search_locations:
        return None
    base = Path(next(iter(spec.submodule_search_locations)), *parts[1:])
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if len(parts) > 1 and file.is_file():
            return ast.parse(file.read_text(encoding="utf-8"))
    return None


@cache
def _classes() -> dict[str, list[str]]:
    root = Path(__file__).parents[1]
    found: dict[str, list[str]] = {}
    for file in root.rglob("*.py"):
        module = ".".join(("vedit", *file.relative_to(root).with_suffix("").parts))
        for name in re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
            found.setdefault(name, []).append(f"{module}.{name}")
    return found
