"""The YAML of `vedit data build` and `vedit data encode`, parsed strictly.

Three keys: ``build`` holds what the splits share, ``splits`` what each of them has of its own
(both the fields of `BuildConfig`), ``encode`` the parts whose outputs are cached::

    build:
      clips: data/demo
      edits: [grayscale, sepia]
    splits:
      train: {output: data/mine/train, windows: 100}
      test: {output: data/mine/test, windows: 12}
    encode:
      codec:
        class_path: vedit.codecs.wan_vae.WanVAE
        init_args: {weights: nano/vae}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vedit.cli.extends import compose
from vedit.engine.build_config import BuildConfig
from vedit.errors import ConfigError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Component:
    """A class and its arguments.

    Attributes:
        class_path: Dotted path of the class.
        init_args: Its keyword arguments.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodeConfig:
    """What to compute once and cache.

    Attributes:
        codec: Encodes source, target, mask and reference to latents.
        context: Context encoder whose frozen part encodes the instructions; None caches no words.
        dtype: Number format of the cache.
        batch_size: Samples encoded at a time.
        device: Where to encode; None takes a GPU if there is one.
    """

    codec: Component
    context: Component | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    batch_size: int = 16
    device: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: A value out of range.
        """
        if self.batch_size < 1:
            raise ConfigError(f"encode.batch_size: got {self.batch_size}, expected at least 1.")


@dataclass(frozen=True)
class DataConfig:
    """What to build, split by split, and what to encode of it."""

    splits: tuple[BuildConfig, ...]
    encode: EncodeConfig | None = None


def read_data_config(path: str | Path, overrides: Sequence[tuple[str, Any]] = ()) -> DataConfig:
    """Read a data configuration, which may build on others with ``extends``.

    Args:
        path: The YAML file.
        overrides: (dotted key, value) pairs that win over the file.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: The file is missing or no YAML; a key is unknown, missing or of another type.
    """
    tree = compose([path], overrides).tree
    tree.pop("name", None)  # given to every configuration
    try:
        return parse_data_config(tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_data_config(content: object) -> DataConfig:
    """Check parsed YAML; see `read_data_config`.

    Args:
        content: What YAML gives.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: A key is unknown, missing or of another type.
    """
    top = _mapping(content, "the file")
    _known(top, ("build", "splits", "encode"), "")
    shared = _mapping(top.get("build", {}), "build")
    _known(shared, _names(BuildConfig), "build.")
    splits = _mapping(top.get("splits"), "splits")
    if not splits:
        raise ConfigError("splits: names no split, expected at least one, such as 'train'.")
    built = []
    for name, own in splits.items():
        place = f"splits.{name}"
        own = _mapping(own or {}, place)
        _known(own, _names(BuildConfig), f"{place}.")
        built.append(_record(BuildConfig, {**shared, "split": str(name), **own}, place))
    encode = top.get("encode")
    return DataConfig(tuple(built), None if encode is None else parse_encode(encode))


def parse_encode(content: object, place: str = "encode") -> EncodeConfig:
    """Check the part that says how to encode.

    Args:
        content: What YAML gives.
        place: Names the key in errors.

    Returns:
        The checked part.

    Raises:
        ConfigError: A key is unknown, missing or of another type.
    """
    return _record(EncodeConfig, content, place)


# --- records from mappings -----------------------------------------------------------------


def _record(cls: type[T], content: object, place: str) -> T:
    """Make a dataclass of a mapping."""
    values = _mapping(content, place)
    _known(values, _names(cls), f"{place}.")
    hints = get_type_hints(cls)
    arguments = {}
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name in values:
            arguments[f.name] = _value(values[f.name], hints[f.name], f"{place}.{f.name}")
        elif f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{place}.{f.name}: is missing.")
    try:
        return cls(**arguments)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(place) else f"{place}.{text}") from error


def _value(value: object, hint: Any, place: str) -> Any:
    """Convert a YAML value to a type, without guessing."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _one_of(value, choices, place)
    if origin is Literal:
        if value not in choices:
            hint_text = nearest(str(value), [str(c) for c in choices])
            raise ConfigError(f"{place}: got {value!r}, expected {_listed(choices)}.{hint_text}")
        return value
    if origin in (list, tuple):
        return _sequence(value, origin, choices, place)
    if origin is dict or hint is dict:
        return dict(_mapping(value, place))
    if hasattr(hint, "__dataclass_fields__"):
        return _record(hint, value, place)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{place}: got {value!r}, expected {_type_name(hint)}.")
    return value


def _one_of(value: object, choices: tuple[Any, ...], place: str) -> Any:
    """The first member of a union that takes the value; a lone one may say why it does not."""
    if value is None and NoneType in choices:
        return None
    kinds = [c for c in choices if c is not NoneType]
    if len(kinds) == 1:
        return _value(value, kinds[0], place)
    for kind in kinds:
        try:
            return _value(value, kind, place)
        except ConfigError:
            continue
    expected = " or ".join(_type_name(k) for k in kinds)
    raise ConfigError(f"{place}: got {value!r}, expected {expected}.")


def _sequence(value: object, kind: type, items: tuple[Any, ...], place: str) -> Any:
    if not isinstance(value, list):
        raise ConfigError(f"{place}: got {value!r}, expected a list.")
    if kind is list:
        return [_value(v, items[0], f"{place}[{i}]") for i, v in enumerate(value)]
    if len(value) != len(items):
        raise ConfigError(f"{place}: got {len(value)} values, expected {len(items)}.")
    return tuple(
        _value(v, item, f"{place}[{i}]")
        for i, (v, item) in enumerate(zip(value, items, strict=True))
    )


def _mapping(value: object, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place}: got {value!r}, expected a mapping.")
    return value


def _known(values: Mapping[str, Any], names: tuple[str, ...], prefix: str) -> None:
    for name in values:
        if name not in names:
            raise ConfigError(
                f"{prefix}{name}: unknown key, expected one of {', '.join(names)}."
                f"{nearest(str(name), names)}"
            )


def _names(cls: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))


def _listed(choices: tuple[Any, ...]) -> str:
    return " or ".join(repr(c) for c in choices)


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return _listed(get_args(hint))
    if get_origin(hint) is list:
        return "a list"
    return {int: "an integer", float: "a number", str: "a text", bool: "true or false"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )
