"""Read type hints: which classes they accept, and how a reader would say them."""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from typing import Any


def alternatives(hint: Any) -> list[Any]:
    """The members of a union, or the hint alone."""
    if typing.get_origin(hint) is typing.Annotated:
        return alternatives(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [inner for option in typing.get_args(hint) for inner in alternatives(option)]
    return [hint]


def kinds_of(hint: Any) -> list[tuple[type, int]]:
    """The kinds of class that a hint accepts, each with the number of its late arguments."""
    found = []
    for option in alternatives(hint):
        origin = typing.get_origin(option)
        if origin is collections.abc.Callable:
            arguments, returned = typing.get_args(option) or ([], None)
            kinds = [r for r in alternatives(returned) if _is_kind(r)]
            found += [(kind, 0 if arguments is Ellipsis else len(arguments)) for kind in kinds]
        elif _is_kind(option):
            found.append((option, 0))
    return found


def _is_kind(option: Any) -> bool:
    return (
        isinstance(option, type)
        and typing.get_origin(option) is None
        and option.__module__ not in ("builtins", "pathlib", "datetime", "enum", "typing")
        and not dataclasses.is_dataclass(option)
    )


def is_list(option: Any) -> bool:
    """Whether it is a list of some kind."""
    return typing.get_origin(option) in (list, tuple, collections.abc.Sequence, set)


def is_mapping(option: Any) -> bool:
    """Whether it has keys and values."""
    origin = typing.get_origin(option) or option
    return origin in (dict, collections.abc.Mapping)


def item_of(option: Any) -> Any:
    """The type of the items of a list, or of the values of a mapping."""
    arguments = typing.get_args(option)
    return arguments[-1] if is_mapping(option) and arguments else (arguments or (Any,))[0]


def literals(hint: Any) -> list[str]:
    """The values of the `Literal`s in a hint."""
    found: list[str] = []
    for option in alternatives(hint):
        if typing.get_origin(option) is typing.Literal:
            found += [str(value) for value in typing.get_args(option)]
    return found


def describe_type(hint: Any) -> str:
    """A type as a reader says it.

    Args:
        hint: an annotation.

    Returns:
        Words for an error message, such as "int or null".

    Examples:
        >>> describe_type(int | None), describe_type(typing.Literal["a", "b"])
        ('int or null', "one of 'a', 'b'")
    """
    options = alternatives(hint)
    if len(options) > 1:
        return " or ".join(dict.fromkeys(describe_type(option) for option in options))
    option = options[0]
    if option is type(None):
        return "null"
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(value) for value in arguments)
    if origin is collections.abc.Callable:
        return _with_article(name_of(arguments[-1])) if arguments else "a function"
    if is_list(option):
        fixed = origin is tuple and Ellipsis not in arguments
        if fixed:
            return "[" + ", ".join(describe_type(a) for a in arguments) + "]"
        return f"a list of {describe_type(arguments[0])}" if arguments else "a list"
    if is_mapping(option):
        return "keys with values"
    return name_of(option)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def name_of(thing: Any) -> str:
    """A class's name, or how else it shows itself."""
    return getattr(thing, "__name__", str(thing))
