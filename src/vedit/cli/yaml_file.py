"""Read YAML as people write it, strictly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from vedit.errors import ConfigError

Tree = dict[str, Any]


class Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-4` is a number, and a key given twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse keys that are given twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key '{key}' is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_exponents() -> None:
    pattern = r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.[\d_]+)[eE][-+]?\d+$"
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(pattern), list("-+.0123456789")
    )


_read_exponents()


def read_yaml(path: Path) -> Tree:
    """Read one YAML mapping.

    Args:
        path: an UTF-8 file; an empty one is an empty mapping.

    Returns:
        Its keys and values.

    Raises:
        ConfigError: if it cannot be read or is not a mapping; the message gives the line.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except yaml.MarkedYAMLError as error:
        line = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)
        raise ConfigError(f"{line}: not valid YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected keys with values, got a {type(tree).__name__}")
    return tree


def parse_value(text: str) -> Any:
    """The value that `text` has in YAML: `null`, numbers, lists and the like.

    Args:
        text: what follows a key on the command line.

    Returns:
        Its value; text that is no YAML is itself.

    Examples:
        >>> parse_value("null"), parse_value("1e-4"), parse_value("[a, 2]"), parse_value("${name}")
        (None, 0.0001, ['a', 2], '${name}')
    """
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        return text
