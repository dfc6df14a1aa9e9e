"""What a class takes, and which classes there are of a kind."""

from __future__ import annotations

import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any


def parameters(
    target: Callable[..., Any], late: int = 0
) -> tuple[dict[str, inspect.Parameter], bool]:
    """What a class or function takes, with resolved annotations, and whether it takes anything.

    `**kwargs` is followed to the constructors of the parent classes.
    """
    found: dict[str, inspect.Parameter] = {}
    functions = _constructors(target) if isinstance(target, type) else [target]
    for index, function in enumerate(functions):
        own = list(inspect.signature(function).parameters.values())
        own = own[1:] if isinstance(target, type) and own and own[0].name == "self" else own
        hints = _hints(function)
        named = [p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        given = _late(functions, late)
        named = named[late:] if index == 0 else [p for p in named if p.name not in given]
        for parameter in named:
            annotation = hints.get(parameter.name, parameter.annotation)
            found.setdefault(parameter.name, parameter.replace(annotation=annotation))
        if not any(p.kind is p.VAR_KEYWORD for p in own):
            return found, False
    return found, True


def _late(functions: list[Callable[..., Any]], late: int) -> set[str]:
    own = list(inspect.signature(functions[0]).parameters)[1:]
    return set(own[:late])


def _constructors(target: type) -> list[Callable[..., Any]]:
    own = [c.__dict__["__init__"] for c in target.__mro__ if "__init__" in c.__dict__]
    return [function for function in own if inspect.isfunction(function)] or [target]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    wrapped = inspect.unwrap(function)
    try:
        return typing.get_type_hints(wrapped)
    except (NameError, TypeError, AttributeError):
        return {}


def subclasses(base: type) -> list[type]:
    """The concrete classes of a kind, after importing the package that defines the kind."""
    _import_package(base)
    found: list[type] = []
    todo = [base]
    while todo:
        current = todo.pop()
        todo += current.__subclasses__()
        if not inspect.isabstract(current) and not current.__name__.startswith("_"):
            found.append(current)
    return list(dict.fromkeys(found))


def _import_package(base: type) -> None:
    names = [base.__module__.rpartition(".")[0]] if base.__module__.startswith("vedit.") else []
    names += {"Callback": ["vedit.callbacks"], "Strategy": ["vedit.distributed"]}.get(
        base.__name__, []
    )
    for name in names:
        if name == "vedit":
            continue
        package = import_module(name)
        for module in _modules(package):
            import_module(module)


def _modules(package: types.ModuleType) -> Iterator[str]:
    for info in pkgutil.iter_modules(getattr(package, "__path__", [])):
        yield f"{package.__name__}.{info.name}"
