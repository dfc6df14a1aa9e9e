"""Compose YAML files: `extends`, overlays, command-line overrides and `${}`, in that order.

What comes out is plain data with nothing left to resolve, so that whoever types it (jsonargparse)
sees one complete document. Nothing here imports torch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vedit.cli.interpolation import InterpolationError, resolve
from vedit.cli.yaml_file import Tree, read_yaml
from vedit.errors import ConfigError, nearest

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Layer:
    """What one file, or the command line, contributes.

    Attributes:
        name: the file as it was named, or "command line".
        tree: its keys, `extends` taken out.
    """

    name: str
    tree: Tree


@dataclass(frozen=True)
class Composed:
    """A complete configuration and where each of its keys came from.

    Attributes:
        tree: plain data, interpolations resolved.
        layers: what it was merged from, lowest priority first.
    """

    tree: Tree
    layers: tuple[Layer, ...]

    def origin(self, key: str) -> str:
        """Name of the layer that set `key` (dotted), or its nearest parent, last."""
        parts = key.split(".")
        for layer in reversed(self.layers):
            if _settles(layer.tree, parts):
                return layer.name
        for length in range(len(parts), 0, -1):
            for layer in reversed(self.layers):
                if _holds(layer.tree, parts[:length]):
                    return layer.name
        return self.layers[0].name if self.layers else COMMAND_LINE

    def error(self, key: str, problem: str) -> ConfigError:
        """The one-line error about `key`: `file: key: problem`."""
        return ConfigError(f"{self.origin(key)}: {key}: {problem}")


def compose(files: Sequence[str | Path], overrides: Sequence[tuple[str, Any]] = ()) -> Composed:
    """Merge configuration files and overrides, then resolve `${}`.

    Args:
        files: later files win over earlier ones; each may name others under `extends`.
        overrides: (dotted key, value) pairs that win over all files. A key need not spell out
            `init_args`: `model.source.time` means `model.source.init_args.time`. A key that ends
            with `+` appends to a list.

    Returns:
        The merged tree, with `name` set to the stem of the first file if no layer sets it.

    Raises:
        ConfigError: if a file is missing or no YAML mapping, if `extends` goes round in a circle,
            or if an interpolation names a key that is not there.
    """
    return compose_layers(layers_of(files), overrides, Path(files[0]).stem if files else None)


def compose_layers(
    below: Sequence[Layer], overrides: Sequence[tuple[str, Any]] = (), name: str | None = None
) -> Composed:
    """Merge layers and overrides, then resolve `${}`; see `compose`.

    Args:
        below: from `layers_of`.
        overrides: (dotted key, value) pairs that win over them.
        name: `name` if no layer sets it; None sets none.

    Returns:
        The merged tree.

    Raises:
        ConfigError: if an interpolation names a key that is not there.
    """
    layers = list(below)
    tree: Tree = {}
    for layer in layers:
        tree = _merged(tree, layer.tree)
    for key, value in overrides:
        layer = Layer(COMMAND_LINE, _nested(key.split("."), value, tree))
        layers.append(layer)
        tree = _merged(tree, layer.tree)
    if name is not None:
        tree.setdefault("name", name)
    try:
        return Composed(resolve(tree), tuple(layers))
    except InterpolationError as error:
        where = ".".join(error.parts)
        raise Composed(tree, tuple(layers)).error(where, error.problem) from error


def layers_of(files: Sequence[str | Path]) -> list[Layer]:
    """What files contribute, with all they extend, lowest priority first.

    Args:
        files: configurations, each over those before it.

    Returns:
        The layers.

    Raises:
        ConfigError: if a file is missing or no YAML mapping, or if `extends` makes a circle.
    """
    return [layer for file in files for layer in _layers(Path(file), ())]


def merge(base: Tree, top: Mapping[str, Any]) -> Tree:
    """Merge `top` over `base`: mappings by key, all else replaced.

    Three rules beyond that: when `class_path` changes, the arguments of the old class go with it;
    `init_args` alone add to the class named below; and a key that ends with `+` appends its list to
    the one below.

    Args:
        base: what lies below.
        top: what wins.

    Returns:
        A new tree; neither of the two is changed.

    Examples:
        >>> merge({"a": {"class_path": "A", "init_args": {"x": 1}}}, {"a": {"class_path": "B"}})
        {'a': {'class_path': 'B'}}
        >>> merge({"a": [1]}, {"a+": [2]})
        {'a': [1, 2]}
    """
    return copy.deepcopy(_merged(base, top))


def _merged(base: Tree, top: Mapping[str, Any]) -> Tree:
    """`merge`, whose result shares with the two what it does not change."""
    changed = (
        "class_path" in base and top.get("class_path", base["class_path"]) != base["class_path"]
    )
    merged = {} if changed else dict(base)
    for key, value in top.items():
        if key.endswith("+"):
            name = key[:-1]
            below = merged.get(name) or []
            merged[name] = [*_listed(below), *_listed(value)]
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merged(merged[key], value)
        elif isinstance(value, Mapping):
            merged[key] = _merged(_as_class(merged.get(key), value), value)
        else:
            merged[key] = value
    return merged


def find_config(name: str | Path, beside: Path | None = None) -> Path:
    """The file that a name in `extends` or `--config` means.

    Args:
        name: a path, with or without `.yaml`.
        beside: the file that names it; its folder is looked in first, then `configs/`.

    Returns:
        The first file of that name.

    Raises:
        ConfigError: if it is in none of these places; the message lists close names.
    """
    wanted = Path(name)
    wanted = wanted if wanted.suffix else wanted.with_suffix(".yaml")
    roots = [Path()] if beside is None else [beside.parent, *_config_roots(beside)]
    for root in roots:
        if (root / wanted).is_file():
            return root / wanted
    where = f"{beside}: extends: " if beside is not None else ""
    looked = ", ".join(str(root / wanted) for root in roots)
    siblings = [p.name for r in roots for p in (r / wanted).parent.glob("*.yaml")]
    raise ConfigError(f"{where}no such file: {looked}.{nearest(wanted.name, siblings)}")


def _layers(path: Path, below: tuple[Path, ...]) -> list[Layer]:
    """The layers of one file: what it extends first, then itself."""
    path = find_config(path)
    earlier = [other.resolve() for other in below]
    if path.resolve() in earlier:
        circle = [*below[earlier.index(path.resolve()) :], path]
        shown = " -> ".join(other.name for other in circle)
        raise ConfigError(f"{below[-1]}: extends: goes round in a circle: {shown}")
    tree = read_yaml(path)
    bases = tree.pop("extends", None) or []
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: extends: expected a file name or a list of them, got {bases!r}")
    found = [find_config(base, beside=path) for base in bases]
    layers = [layer for base in found for layer in _layers(base, (*below, path))]
    return [*layers, Layer(str(path), tree)]


def _config_roots(file: Path) -> list[Path]:
    """`configs/` of the current folder, of the tree `file` lies in, and of this repository."""
    above = [p for p in file.resolve().parents if p.name == "configs"]
    shipped = Path(__file__).parents[3] / "configs"
    roots = [Path("configs"), *above, shipped]
    return list({root.resolve(): root for root in roots}.values())


def _nested(parts: list[str], value: Any, tree: Any) -> Tree:
    """`{a: {b: value}}` for ["a", "b"], going through `init_args` where `tree` has a class."""
    head, rest = parts[0], parts[1:]
    if isinstance(tree, str):
        tree = {"class_path": tree}
    is_class = isinstance(tree, Mapping) and "class_path" in tree
    if is_class and head not in ("class_path", "init_args"):
        return {"init_args": _nested(parts, value, tree.get("init_args"))}
    if not rest:
        return {head: value}
    below = tree.get(head) if isinstance(tree, Mapping) else None
    return {head: _nested(rest, value, below)}


def _as_class(below: Any, top: Mapping[str, Any]) -> Tree:
    """A class named by a plain string, spelled out so that `init_args` can join it."""
    if isinstance(below, str) and "init_args" in top and "class_path" not in top:
        return {"class_path": below}
    return {}


def _settles(tree: Any, parts: Sequence[str]) -> bool:
    """Whether `tree` has a plain value at that place or above it, such as a short class name."""
    for part in parts:
        if not isinstance(tree, Mapping):
            return tree is not None and not isinstance(tree, list)
        if part not in tree:
            return False
        tree = tree[part]
    return True


def _holds(tree: Any, parts: Sequence[str]) -> bool:
    for part in parts:
        if isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        elif isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
        elif isinstance(tree, Mapping) and f"{part}+" in tree:
            tree = tree[f"{part}+"]
        else:
            return False
    return True


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]
