"""Check a composed configuration against the constructors it names, key by key.

The walk finds what jsonargparse would report in many lines, and reports it in one: an unknown key,
a class that is not there or of the wrong kind, a value of the wrong type. The types are judged by
jsonargparse itself, one value at a time, so that the key is known exactly.

On the way a short class name becomes the full path when it means exactly one class.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, NoReturn

from vedit.cli.extends import Composed, Tree
from vedit.errors import nearest

CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


class Checker:
    """Walks one composed configuration.

    Args:
        composed: the configuration; its layers give each error its file.
        late: names of constructor arguments by class that arrive later than the configuration and
            may not stand in it.
    """

    def __init__(self, composed: Composed) -> None:
        self.composed = composed

    def arguments(
        self, target: Callable[..., Any], tree: Mapping[str, Any], key: str, late: int = 0
    ) -> Tree:
        """Check `tree` as keyword arguments of `target`.

        Args:
            target: a class or function.
            tree: what the configuration gives it.
            key: dotted place of `tree`.
            late: how many leading positional arguments `target` is given by its caller.

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
                checked[name] = None if nothing else self.value(hints[name].annotation, value, where)
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
        if missing:
            self._fail(f"{key}.{missing[0]}".lstrip("."), f"missing; {_name(target)} needs it")
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
        options = _alternatives(hint)
        if value is None and (type(None) in options or hint in (Any, inspect.Parameter.empty)):
            return None
        if value is None:
            self._fail(key, f"expected {describe_type(hint)}, got null")
        if isinstance(value, Mapping):
            return self._mapping(options, value, key, hint)
        if isinstance(value, list):
            inner = [o for o in options if _is_list(o) and _classes(_item(o))]
            if inner:
                return [self.value(_item(inner[0]), v, f"{key}.{i}") for i, v in enumerate(value)]
        bases = _classes(hint)
        only_classes = all(_classes(o) for o in options if o is not type(None))
        if isinstance(value, str) and bases and (only_classes or value[:1].isupper()):
            return self._mapping(options, {"class_path": value}, key, hint)
        self._typed(hint, value, key)
        return value

    def _mapping(self, options: list[Any], value: Mapping[str, Any], key: str, hint: Any) -> Any:
        bases = _classes(hint)
        if "class_path" in value:
            if not bases:
                self._fail(key, f"takes {describe_type(hint)}, not a class")
            return self._subclass(bases, value, key)
        for option in options:
            if dataclasses.is_dataclass(option) and isinstance(option, type):
                given = self.arguments(option, value, key)
                whole = inspect.Parameter("_", inspect.Parameter.KEYWORD_ONLY, annotation=option)
                return {**(self._default(whole) or {}), **given}
            if _is_mapping(option) and _classes(_item(option)):
                item = _item(option)
                return {name: self.value(item, v, f"{key}.{name}") for name, v in value.items()}
        if any(_is_mapping(option) for option in options) or hint is inspect.Parameter.empty:
            return dict(value)
        if bases:
            given = ", ".join(map(str, value)) or "nothing"
            self._fail(key, f"expected class_path (and init_args), got {given}")
        self._typed(hint, dict(value), key)
        return dict(value)

    def _subclass(self, bases: list[tuple[type, int]], value: Mapping[str, Any], key: str) -> Tree:
        for name in value:
            if name not in CLASS_KEYS:
                self._fail(
                    f"{key}.{name}", f"unknown key beside class_path.{nearest(name, CLASS_KEYS)} "
                    "Arguments of the class go under init_args"
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
        for base, late in bases:
            if not isinstance(found, type) or issubclass(found, base):
                return found, late
        kinds = " or ".join(base.__name__ for base, _ in bases)
        choices = ", ".join(sorted({c.__name__ for b, _ in bases for c in subclasses(b)})[:12])
        self._fail(key, f"'{path}' is no {kinds}. There are: {choices}")

    def _imported(self, path: str, key: str) -> Any:
        module_name, _, name = path.rpartition(".")
        try:
            module = import_module(module_name)
        except ImportError as error:
            self._fail(key, f"'{path}': cannot import {module_name}: {_one_line(error)}")
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
        from jsonargparse import ArgumentError, ArgumentParser

        parser = ArgumentParser(exit_on_error=False)
        try:
            parser.add_argument("--value", type=hint)
        except ValueError:  # a type that no file can hold: left to the constructor
            return
        try:
            parser.parse_object({"value": value})
        except (ArgumentError, TypeError, ValueError) as error:
            allowed = _literals(hint)
            close = nearest(str(value), allowed) if allowed else ""
            reason = _reason(hint, error)
            self._fail(key, f"expected {describe_type(hint)}, got {value!r}{reason}.{close}")

    def _unknown(self, key: str, name: str, hints: Mapping[str, Any]) -> NoReturn:
        close = nearest(name, hints)
        known = "" if close else f" There are: {', '.join(hints) or 'none'}"
        self._fail(key, f"unknown key.{close}{known}")

    def _fail(self, key: str, problem: str) -> NoReturn:
        raise self.composed.error(key, problem)


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
        named = named[late:] if index == 0 else [p for p in named if p.name not in _late(functions, late)]
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
    if base.__name__ == "Callback":
        names.append("vedit.callbacks")
    for name in names:
        if name == "vedit":
            continue
        package = import_module(name)
        for module in _modules(package):
            import_module(module)


def _modules(package: types.ModuleType) -> Iterator[str]:
    for info in pkgutil.iter_modules(getattr(package, "__path__", [])):
        yield f"{package.__name__}.{info.name}"


def _alternatives(hint: Any) -> list[Any]:
    if typing.get_origin(hint) is typing.Annotated:
        return _alternatives(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [inner for option in typing.get_args(hint) for inner in _alternatives(option)]
    return [hint]


def _classes(hint: Any) -> list[tuple[type, int]]:
    """The kinds of class that a hint accepts, each with the number of its late arguments."""
    found = []
    for option in _alternatives(hint):
        origin = typing.get_origin(option)
        if origin is collections.abc.Callable:
            arguments, returned = typing.get_args(option) or ([], None)
            kinds = [r for r in _alternatives(returned) if _is_kind(r)]
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


def _is_list(option: Any) -> bool:
    return typing.get_origin(option) in (list, tuple, collections.abc.Sequence, set)


def _is_mapping(option: Any) -> bool:
    origin = typing.get_origin(option) or option
    return origin in (dict, collections.abc.Mapping)


def _item(option: Any) -> Any:
    arguments = typing.get_args(option)
    return arguments[-1] if _is_mapping(option) and arguments else (arguments or (Any,))[0]


def _literals(hint: Any) -> list[str]:
    found: list[str] = []
    for option in _alternatives(hint):
        if typing.get_origin(option) is typing.Literal:
            found += [str(value) for value in typing.get_args(option)]
    return found


def describe_type(hint: Any) -> str:
    """A type as a reader says it.

    Examples:
        >>> describe_type(int | None), describe_type(typing.Literal["a", "b"])
        ('int or null', "one of 'a', 'b'")
    """
    options = _alternatives(hint)
    if len(options) > 1:
        return " or ".join(dict.fromkeys(describe_type(option) for option in options))
    option = options[0]
    if option is type(None):
        return "null"
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(value) for value in arguments)
    if origin is collections.abc.Callable:
        return _with_article(_name(arguments[-1])) if arguments else "a function"
    if _is_list(option):
        fixed = origin is tuple and Ellipsis not in arguments
        if fixed:
            return "[" + ", ".join(describe_type(a) for a in arguments) + "]"
        return f"a list of {describe_type(arguments[0])}" if arguments else "a list"
    if _is_mapping(option):
        return "keys with values"
    return _name(option)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _reason(hint: Any, error: Exception) -> str:
    """What the type itself says, when it says more than its name (paths, ranges)."""
    if any(option in (int, float, str, bool, type(None)) for option in _alternatives(hint)):
        return ""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "not" in line and "Expected" not in line]
    return f" ({telling[-1].rstrip('.')})" if telling else ""


def _path_of(found: Any) -> str:
    return f"{found.__module__}.{found.__qualname__}"


def _name(thing: Any) -> str:
    return getattr(thing, "__name__", str(thing))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
