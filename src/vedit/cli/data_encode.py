"""Which shards `vedit data encode` encodes, and with what."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from vedit.backbones.base import BackboneSpec
from vedit.cli.data_config import Component, EncodeConfig, parse_encode, read_data_config
from vedit.cli.extends import compose
from vedit.data.cache import encode_shards
from vedit.errors import ConfigError, nearest

WAN_VAE = "vedit.codecs.wan_vae.WanVAE"
UMT5 = "vedit.context.umt5.UMT5"


@dataclass(frozen=True)
class Plan:
    """Folders of shards and what encodes them."""

    directories: tuple[Path, ...]
    encode: EncodeConfig


def plan(args: argparse.Namespace, overrides: Sequence[tuple[str, Any]] = ()) -> Plan:
    """Settle what the command line leaves open.

    ``--config`` is a data configuration, or that of a model, whose codec and context encoder are
    taken. ``--codec`` and ``--context`` do without one.

    Raises:
        ConfigError: There is nothing to encode, or nothing to encode it with.
    """
    directories = (*args.directories, *args.shards)
    if args.config is not None:
        stated, encode = _from_config(args.config, overrides)
        directories = directories or stated
    elif args.codec is not None:
        encode = EncodeConfig(Component(WAN_VAE, {"weights": str(args.codec)}))
    else:
        raise ConfigError("vedit data encode: give --config FILE, or --codec FOLDER and DIR.")
    if args.context is not None:
        tokenizer = args.tokenizer or args.context
        words = {"weights": str(args.context), "tokenizer": str(tokenizer)}
        encode = replace(encode, context=Component(UMT5, words))
    given = {n: getattr(args, n) for n in ("dtype", "batch_size", "device")}
    encode = replace(encode, **{n: v for n, v in given.items() if v is not None})
    if not directories:
        raise ConfigError("vedit data encode: names no folder of shards; give DIR.")
    return Plan(tuple(directories), encode)


def run_plan(chosen: Plan, progress: Callable[[str], None] = print) -> None:
    """Load codec and context encoder, and encode every folder.

    Raises:
        ConfigError: A class cannot be made.
        WeightsError: Its weights do not fit.
        DataError: Shards are missing or damaged.
    """
    device = chosen.encode.device or ("cuda" if torch.cuda.is_available() else "cpu")
    codec = make(chosen.encode.codec, "encode.codec").to(device)
    words = None
    if chosen.encode.context is not None:
        # Only features of the frozen part are cached: whatever follows may have any width.
        spec = BackboneSpec(8, codec.latent_channels, (1, 2, 2), cross_attention=True)
        words = make(chosen.encode.context, "encode.context", spec).to(device)
    for directory in chosen.directories:
        encode_shards(
            directory,
            codec,
            words,
            batch_size=chosen.encode.batch_size,
            dtype=getattr(torch, chosen.encode.dtype),
            progress=_prefixed(progress, directory.name),
        )
        progress(f"[{directory.name}] encoded")


def _prefixed(progress: Callable[[str], None], name: str) -> Callable[[str], None]:
    return lambda line: progress(f"[{name}] {line}")


def make(component: Component, place: str, *late: Any) -> Any:
    """Make an encoder, with its weights, ready to encode.

    Args:
        component: Its class and arguments.
        place: Names the key in errors.
        late: Leading arguments that only the program knows.

    Raises:
        ConfigError: There is no such class, or it takes no such argument.
    """
    found = _class(component.class_path, f"{place}.class_path")
    parameters = inspect.signature(found).parameters
    for name in component.init_args:
        if name not in parameters:
            raise ConfigError(
                f"{place}.init_args.{name}: {found.__name__} takes no such argument."
                f"{nearest(name, parameters)}"
            )
    try:
        module = found(*late, **component.init_args)
    except TypeError as error:
        raise ConfigError(f"{place}: {found.__name__} cannot be made ({error}).") from error
    if getattr(module, "weights", None) is not None:
        module.load_weights()
    return module.eval().requires_grad_(False)


def _class(path: str, place: str) -> type:
    module, _, name = path.rpartition(".")
    try:
        holder = import_module(module)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{place}: {path!r} cannot be imported ({error}).") from error
    if not isinstance(getattr(holder, name, None), type):
        raise ConfigError(f"{place}: {module} has no class {name!r}.{nearest(name, dir(holder))}")
    return getattr(holder, name)


def _from_config(
    path: Path, overrides: Sequence[tuple[str, Any]]
) -> tuple[tuple[Path, ...], EncodeConfig]:
    """Folders and encoders named by a data configuration or by a model's."""
    tree = compose([path], overrides).tree
    if "model" in tree:
        model = tree["model"]
        model = model.get("init_args", model)
        parts = {n: model[n] for n in ("codec", "context") if model.get(n) is not None}
        return (), parse_encode(parts, f"{path}: model")
    config = read_data_config(path, overrides)
    if config.encode is None:
        raise ConfigError(f"{path}: encode: is missing; it names the codec.")
    return tuple(split.output for split in config.splits), config.encode
