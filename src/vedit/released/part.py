"""How a part of a configuration is written: a class and its arguments."""

from __future__ import annotations

from typing import Any, TypeAlias

Tree: TypeAlias = dict[str, Any]


def part(class_path: str, **arguments: Any) -> Tree:
    """A class and its arguments, as YAML says it.

    Args:
        class_path: dotted path inside this package, without its name; or a whole one.
        **arguments: of the constructor.

    Returns:
        `class_path` and `init_args`.

    Examples:
        >>> part("conditioning.cross.CrossAttend")
        {'class_path': 'vedit.conditioning.cross.CrossAttend', 'init_args': {}}
    """
    outside = class_path.startswith("torch.")
    return {"class_path": class_path if outside else f"vedit.{class_path}", "init_args": arguments}
