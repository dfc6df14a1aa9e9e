"""Check a composed configuration against the constructors it names, key by key.

The walk finds what jsonargparse would report in many lines, and reports it in one: an unknown key,
a class that is not there or of the wrong kind, a value of the wrong type. The types are judged by
jsonargparse itself, one value at a time, so that the key is known exactly.

On the way a short class name becomes the full path when it means exactly one class.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NoReturn

from vedit.cli.classes import parameters, subclasses
from vedit.cli.extends import Composed
from vedit.cli.hints import (
    alternatives,
    describe_type,
    is_list,
    is_mapping,
    item_of,
    kinds_of,
    literals,
    name_of,
)
from vedit.cli.renamed import instead_of
from vedit.cli.yaml_file import Tree
from vedit.errors import nearest

CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")

_PASSED: set[tuple[Any, str]] = set()
"""Types with values that fit them: a sweep checks the same ones again and again."""


class Checker:
    """Walks one composed configuration.

    Args:
        composed: the configuration; its layers give each error its file.
    """

    def __init__(self, composed: Composed) -> None:
        self.composed = composed

    def arguments(
        self,
        target: Callable[..., Any],
        tree: Mapping[str, Any],
        key: str,
        late: int = 0,
        complete: bool = True,
    ) -> Tree:
        """Check `tree` as keyword arguments of `target`.

        Args:
            target: a class or function.
            tree: what the configuration gives it.
            key: dotted place of `tree`.
            late: how many leading positional arguments `target` is given by its caller.
            complete: whether arguments without a default must be there.

        Returns:
            The arguments with full class paths.

        Raises:
            ConfigError: at the first mistake.
        """
        hints, is_open = parameters(target, late)
        checked: Tree = {}
        for name, value in tree.items():
            where = f"{key}.{name}" if key else str(name)
            if name in hints:
                nothing = value is None and hints[name].default is None
                checked[name] = (
                    None if nothing else self.value(hints[name].annotation, value, where)
                )
            elif is_open:
                checked[name] = value
            else:
                self._unknown(where, str(name), hints)
        for name, parameter in hints.items():
            if name not in checked and (spelled := self._default(parameter)) is not None:
                checked[name] = spelled
        missing = [n for n, p in hints.items() if p.default is p.empty and n not in checked]
        # What a parent needs may be filled in by the constructor that passes `**kwargs` on.
        own = inspect.signature(target).parameters
        missing = [n for n in missing if n in own]
        if missing and complete:
            self._fail(f"{key}.{missing[0]}".lstrip("."), f"missing; {name_of(target)} needs it")
        return checked

    def _default(self, parameter: inspect.Parameter) -> Tree | None:
        """Write out a default that holds objects, which no YAML could hold otherwise."""
        hint = parameter.annotation
        if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
            return None
        factories = {f.name: f.default_factory for f in dataclasses.fields(hint)}
        classes = {n: f for n, f in factories.items() if isinstance(f, type)}
        return {name: {"class_path": _path_of(made)} for name, made in classes.items()} or None

    def value(self, hint: Any, value: Any, key: str) -> Any:
        """Check one value against its type hint; see `arguments`."""
        options = alternatives(hint)
        if value is None and (type(None) in options or hint in (Any, inspect.Parameter.empty)):
            return None
        if value is None:
            self._fail(key, f"expected {describe_type(hint)}, got null")
        if isinstance(value, Mapping):
            return self._mapping(options, value, key, hint)
        if isinstance(value, list):
            inner = [o for o in options if is_list(o) and _is_checked(item_of(o))]
            if inner:
                return [self.value(item_of(inner[0]), v, f"{key}.{i}") for i, v in enumerate(value)]
        bases = kinds_of(hint)
        only_classes = all(kinds_of(o) for o in options if o is not type(None))
        if isinstance(value, str) and bases and (only_classes or value[:1].isupper()):
            return self._mapping(options, {"class_path": value}, key, hint)
        self._typed(hint, value, key)
        return value

    def _mapping(self, options: list[Any], value: Mapping[str, Any], key: str, hint: Any) -> Any:
        bases = kinds_of(hint)
        if "class_path" in value:
            if not bases:
                self._fail(key, f"takes {describe_type(hint)}, not a class")
            return self._subclass(bases, value, key)
        for option in options:
            if dataclasses.is_dataclass(option) and isinstance(option, type):
                given = self.arguments(option, value, key)
                whole = inspect.Parameter("_", inspect.Parameter.KEYWORD_ONLY, annotation=option)
                return {**(self._default(whole) or {}), **given}
            if is_mapping(option) and kinds_of(item_of(option)):
                item = item_of(option)
                return {name: self.value(item, v, f"{key}.{name}") for name, v in value.items()}
        if any(is_mapping(option) for option in options) or hint is inspect.Parameter.empty:
            return dict(value)
        if bases:
            keys = ", ".join(map(str, value)) or "nothing"
            self._fail(key, f"expected class_path (and init_args), got {keys}")
        self._typed(hint, dict(value), key)
        return dict(value)

    def _subclass(self, bases: list[tuple[type, int]], value: Mapping[str, Any], key: str) -> Tree:
        for name in value:
            if name not in CLASS_KEYS:
                self._fail(
                    f"{key}.{name}",
                    f"unknown key beside class_path.{nearest(name, CLASS_KEYS)} "
                    "Arguments of the class go under init_args",
                )
        found, late = self._find(bases, value["class_path"], f"{key}.class_path")
        arguments = value.get("init_args") or {}
        if not isinstance(arguments, Mapping):
            self._fail(f"{key}.init_args", f"expected keys with values, got {arguments!r}")
        checked: Tree = {"class_path": _path_of(found)}
        checked["init_args"] = self.arguments(found, arguments, f"{key}.init_args", late)
        if value.get("dict_kwargs"):
            checked["dict_kwargs"] = dict(value["dict_kwargs"])
        return checked

    def _find(self, bases: list[tuple[type, int]], path: Any, key: str) -> tuple[Any, int]:
        if not isinstance(path, str):
            self._fail(key, f"expected the name of a class, got {path!r}")
        found = self._imported(path, key) if "." in path else self._short(bases, path, key)
        fits = [b for b in bases if not isinstance(found, type) or issubclass(found, b[0])]
        if fits:
            return found, fits[0][1]
        kinds = " or ".join(base.__name__ for base, _ in bases)
        choices = ", ".join(sorted({c.__name__ for b, _ in bases for c in subclasses(b)})[:12])
        return self._fail(key, f"'{path}' is no {kinds}. There are: {choices}")

    def _imported(self, path: str, key: str) -> Any:
        module_name, _, name = path.rpartition(".")
        try:
            module = import_module(module_name)
        except ImportError as error:
            from vedit.editor.wrong_class import nearest_module

            hint = nearest_module(module_name)
            self._fail(key, f"'{path}': cannot import {module_name}: {_one_line(error)}.{hint}")
        if not hasattr(module, name):
            hint = nearest(name, [n for n in vars(module) if not n.startswith("_")])
            self._fail(key, f"'{path}': {module_name} has no '{name}'.{hint}")
        found = getattr(module, name)
        if not callable(found):
            self._fail(key, f"'{path}' is a {type(found).__name__}, expected a class")
        return found

    def _short(self, bases: list[tuple[type, int]], name: str, key: str) -> type:
        known = [c for base, _ in bases for c in subclasses(base)]
        matches = list(dict.fromkeys(c for c in known if c.__name__ == name))
        if not matches:
            kinds = " or ".join(base.__name__ for base, _ in bases)
            names = sorted({c.__name__ for c in known})
            listed = ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:12])}, ..."
            hint = nearest(name, names)
            self._fail(key, f"no {kinds} is called '{name}'.{hint} There are: {listed}")
        if len(matches) > 1:
            paths = ", ".join(_path_of(c) for c in matches)
            self._fail(key, f"'{name}' means several classes, write the full path: {paths}")
        return matches[0]

    def _typed(self, hint: Any, value: Any, key: str) -> None:
        if hint in (inspect.Parameter.empty, Any):
            return
        passed = (hint, repr(value))
        if passed in _PASSED:
            return
        from jsonargparse import ArgumentError, ArgumentParser

        parser = ArgumentParser(exit_on_error=False)
        try:
            parser.add_argument("--value", type=hint)
        except ValueError:  # a type that no file can hold: left to the constructor
            return
        try:
            parser.parse_object({"value": value})
        except (ArgumentError, TypeError, ValueError) as error:
            allowed = literals(hint)
            close = nearest(str(value), allowed) if allowed else ""
            reason = _reason(hint, error)
            self._fail(key, f"expected {describe_type(hint)}, got {value!r}{reason}.{close}")
        _PASSED.add(passed)

    def _unknown(self, key: str, name: str, hints: Mapping[str, Any]) -> NoReturn:
        close = instead_of(name) or nearest(name, hints)
        known = "" if close else f" There are: {', '.join(hints) or 'none'}"
        self._fail(key, f"unknown key.{close}{known}")

    def _fail(self, key: str, problem: str) -> NoReturn:
        raise self.composed.error(key, problem)


def _is_checked(hint: Any) -> bool:
    """Whether values of that type are walked into."""
    return bool(kinds_of(hint)) or dataclasses.is_dataclass(hint)


def _reason(hint: Any, error: Exception) -> str:
    """What the type itself says, when it says more than its name (paths, ranges)."""
    if any(option in (int, float, str, bool, type(None)) for option in alternatives(hint)):
        return ""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "not" in line and "Expected" not in line]
    return f" ({telling[-1].rstrip('.')})" if telling else ""


def _path_of(found: Any) -> str:
    return f"{found.__module__}.{found.__qualname__}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
