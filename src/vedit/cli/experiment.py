"""An experiment's configuration: composed, checked against its classes, instantiated."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vedit.cli.extends import Composed, compose
from vedit.cli.signatures import find_misspelt, full_path, signature
from vedit.cli.yaml_file import Tree
from vedit.errors import ConfigError, nearest

if TYPE_CHECKING:
    from vedit.cli.schema import Checker
    from vedit.system import EditSystem

KEYS = {
    "name": "of the run; its results go to runs/NAME",
    "seed_everything": "seed of every random stream",
    "model": "arguments of EditSystem",
    "data": "arguments of EditData, or class_path of another LightningDataModule",
    "trainer": "arguments of Lightning's Trainer",
    "ckpt_path": "checkpoint to resume from or to evaluate",
    "return_predictions": "keep predictions in memory (predict)",
    "verbose": "print results (validate, test)",
    "weights_only": "how a checkpoint is unpickled",
}
"""The top level of an experiment's YAML."""


def read(files: Sequence[str], overrides: Sequence[tuple[str, Any]] = ()) -> Composed:
    """Compose an experiment and check its top level; imports nothing heavy.

    Args:
        files: as in `compose`.
        overrides: as in `compose`.

    Returns:
        The configuration, its `model`, `data` and `trainer` not yet checked.

    Raises:
        ConfigError: see `compose`; or if a top-level key is unknown or `model` is missing.
    """
    if not files:
        raise ConfigError("--config: missing; name at least one YAML file")
    composed = compose(files, overrides)
    check_top(composed, files[0])
    return composed


def check_top(composed: Composed, file: str) -> None:
    """Check the top level of an experiment, and what the text of its classes settles.

    Args:
        composed: from `compose`.
        file: to name where something is missing.

    Raises:
        ConfigError: if a top-level key is unknown, or `model` is missing, or a key is misspelt.
    """
    for key in composed.tree:
        if key not in KEYS:
            hint = nearest(str(key), KEYS) or f" There are: {', '.join(KEYS)}"
            raise composed.error(str(key), f"unknown key.{hint}")
    for key in ("model", "data", "trainer"):
        if not isinstance(composed.tree.get(key, {}), dict):
            raise composed.error(key, f"expected keys with values, got {composed.tree[key]!r}")
    if "model" not in composed.tree:
        raise ConfigError(f"{file}: model: missing")
    find_misspelt(composed)
    name = composed.tree["name"]
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in name:
        raise composed.error("name", f"expected a folder name, got {name!r}")


def check(composed: Composed, trainer: bool = True) -> Tree:
    """Check every key against the constructors, and write class names out in full.

    Args:
        composed: from `read`.
        trainer: whether to check `trainer` and `data` too.

    Returns:
        The tree, with the full path of every class.

    Raises:
        ConfigError: at the first mistake.
    """
    from vedit.cli.schema import Checker

    check_parts(Checker(composed), composed.tree["model"], "model")

    from lightning.pytorch import Trainer

    from vedit.data.module import EditData
    from vedit.system import EditSystem

    checker = Checker(composed)
    targets: dict[str, Any] = {"model": EditSystem}
    if trainer:
        targets |= {"data": EditData, "trainer": Trainer}
    checked = dict(composed.tree)
    for key, target in targets.items():
        tree = composed.tree.get(key) or {}
        if "class_path" in tree:
            base = target if key == "model" else target.__mro__[1]
            checked[key] = checker.value(base, tree, key)
        else:
            checked[key] = checker.arguments(target, tree, key)
    if trainer:
        _check_strategy(composed, checked["trainer"].get("strategy"))
    for key in ("seed_everything", "ckpt_path"):
        hint = {"seed_everything": bool | int, "ckpt_path": str | None}[key]
        if key in checked:
            checker.value(hint, checked[key], key)
    return checked


def _check_strategy(composed: Composed, name: Any) -> None:
    """Refuse a strategy that is named by a word Lightning does not know."""
    if not isinstance(name, str) or name == "auto":
        return
    from lightning.pytorch.strategies import StrategyRegistry

    known = StrategyRegistry.available_strategies()
    if name.lower() not in known:
        meant = "FSDP2" if name.lower() == "fsdp2" else name
        close = nearest(meant, [*known, "FSDP2"])
        hint = close or " There are: auto, ddp, FSDP2 and Lightning's others"
        raise composed.error("trainer.strategy", f"no strategy is called '{name}'.{hint}")


def check_parts(checker: Checker, tree: Any, key: str) -> None:
    """Check the package's own classes one by one, before Lightning takes its seconds to import.

    Args:
        checker: of the configuration that holds the tree.
        tree: part of the configuration; whatever it holds is checked too.
        key: dotted place of the tree, for messages.

    Raises:
        ConfigError: at the first argument that a class does not take, or of the wrong type.
    """
    if not isinstance(tree, dict):
        return
    path, arguments = full_path(str(tree.get("class_path", ""))), tree.get("init_args")
    module, _, name = path.rpartition(".")
    if module.startswith("vedit.") and isinstance(arguments, dict):
        found = getattr(import_module(module), name, None) if signature(path) else None
        if isinstance(found, type):
            checker.arguments(found, arguments, f"{key}.init_args", complete=False)
    for name, value in tree.items():
        check_parts(checker, value, f"{key}.{name}")


def system(checked: Tree) -> EditSystem:
    """The configured `EditSystem`, its parts not yet built.

    Args:
        checked: from `check`.

    Returns:
        A system that `configure_model` builds.

    Raises:
        ConfigError: if the parts do not fit each other.
    """
    from jsonargparse import ArgumentParser

    from vedit.system import EditSystem

    tree = copy.deepcopy(checked["model"])  # the parser writes into what it parses
    parser = ArgumentParser(exit_on_error=False)
    if "class_path" in tree:
        parser.add_subclass_arguments(EditSystem, "model")
    else:
        parser.add_class_arguments(EditSystem, "model", sub_configs=True)
    with one_line_errors():
        parsed = parser.parse_object({"model": tree})
        built: EditSystem = parser.instantiate(parsed).model
    return built


class one_line_errors:  # noqa: N801 (reads as a function)
    """Turns whatever jsonargparse still objects to into one line."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Raise a `ConfigError` in place of an `ArgumentError`."""
        from jsonargparse import ArgumentError

        if isinstance(error, ArgumentError):
            lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
            raise ConfigError(": ".join(dict.fromkeys(lines))) from error


def checkpoint_path(composed: Composed) -> str | None:
    """The configured checkpoint.

    Args:
        composed: from `read`.

    Returns:
        Its path, or "last", "best" or "hpc", which Lightning resolves; None if none is configured.

    Raises:
        ConfigError: if it names a file that is not there; the message lists those beside it.
    """
    path = composed.tree.get("ckpt_path")
    if path is None or path in ("last", "best", "hpc") or not isinstance(path, str):
        return path
    if Path(path).exists():
        return path
    there = sorted(str(p) for p in Path(path).parent.glob("*.ckpt"))
    close = difflib.get_close_matches(path, there, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else f" There are: {', '.join(there) or 'none'}"
    raise composed.error("ckpt_path", f"no such checkpoint: {path}.{hint}")
