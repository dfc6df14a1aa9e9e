"""Command lines of the form `--config FILE ... --some.key value ...`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vedit.cli.yaml_file import parse_value
from vedit.errors import ConfigError, nearest


@dataclass(frozen=True)
class Arguments:
    """A parsed command line.

    Attributes:
        configs: files, in the order given.
        overrides: (dotted key, value), in the order given.
        flags: names given without a value, such as "help".
    """

    configs: tuple[str, ...]
    overrides: tuple[tuple[str, Any], ...]
    flags: frozenset[str] = frozenset()


def parse_arguments(given: Sequence[str], flags: Sequence[str] = ("help",)) -> Arguments:
    """Split a command line into files and overrides; values are read as YAML.

    Args:
        given: `--key value`, `--key=value`, `--config FILE` (or `-c`), and the flags.
        flags: names that take no value.

    Returns:
        Files and overrides in the order in which they were given, and the flags that were.

    Raises:
        ConfigError: for anything else.

    Examples:
        >>> parse_arguments(["-c", "a.yaml", "--model.source", "null", "--trainer.max_steps=3"])
        Arguments(configs=('a.yaml',), overrides=(('model.source', None), ('trainer.max_steps', 3)), flags=frozenset())
    """  # noqa: E501
    configs: list[str] = []
    overrides: list[tuple[str, Any]] = []
    found: set[str] = set()
    todo = list(given)
    while todo:
        word = todo.pop(0)
        name, equals, text = word.partition("=")
        name = {"-c": "--config", "-h": "--help"}.get(name, name)
        if not name.startswith("--") or len(name) == 2:
            raise ConfigError(f"{word}: expected --config FILE or --some.key VALUE")
        name = name[2:]
        if name in flags and not equals:
            found.add(name)
            continue
        if not equals:
            if not todo or (todo[0].startswith("--") and len(todo[0]) > 2):
                hint = nearest(name, [*flags, "config"]) if "." not in name else ""
                raise ConfigError(f"--{name}: expected a value after it.{hint}")
            text = todo.pop(0)
        if name == "config":
            configs.append(text)
        else:
            overrides.append((name, parse_value(text)))
    return Arguments(tuple(configs), tuple(overrides), frozenset(found))
