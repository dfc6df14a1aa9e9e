"""Which shards `vedit data encode` encodes, and with what."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from vedit.backbones.base import BackboneSpec
from vedit.cli.data_config import Component, EncodeConfig, read_data_config
from vedit.cli.extends import compose
from vedit.data.encode import encode_shards
from vedit.data.index import read_index
from vedit.data.lock import check_free
from vedit.errors import ConfigError, nearest
from vedit.model import materialise
from vedit.weights import read_config

WAN_VAE = "vedit.codecs.wan_vae.WanVAE"
UMT5 = "vedit.context.umt5.UMT5"
STREAMS = ("image",)  # of a context, beside the main one, that blocks exist for
UMT5_SIZES = ("d_model", "d_ff", "num_layers", "num_heads", "d_kv", "vocab_size")


@dataclass(frozen=True)
class Plan:
    """Folders of shards and what encodes them.

    Attributes:
        directories: Folders of shards.
        codec: Makes the codec.
        context: Makes the context encoder for a backbone; None encodes no words.
        encode: How to encode.
    """

    directories: tuple[Path, ...]
    codec: Callable[[], Any]
    context: Callable[[BackboneSpec], Any] | None
    encode: EncodeConfig


def plan(args: argparse.Namespace, overrides: Sequence[tuple[str, Any]] = ()) -> Plan:
    """Settle what the command line leaves open.

    ``--config`` is a data configuration, or that of a model, whose codec and context encoder are
    taken. ``--codec`` and ``--context`` do without one.

    Args:
        args: The command line.
        overrides: (dotted key, value) pairs that win over the file.

    Returns:
        What to encode, and how.

    Raises:
        ConfigError: There is nothing to encode, or nothing to encode it with.
    """
    given = {n: getattr(args, n) for n in ("dtype", "batch_size", "device")}
    chosen = {n: v for n, v in given.items() if v is not None}
    directories = (*args.directories, *args.shards)
    if args.config is not None and "model" in compose([args.config], overrides).tree:
        made = _of_model(args.config, overrides, chosen)
    elif args.config is not None:
        config = read_data_config(args.config, overrides)
        if config.encode is None:
            raise ConfigError(f"{args.config}: encode: is missing; it names the codec.")
        directories = directories or tuple(split.output for split in config.splits)
        made = _of_encode(replace(config.encode, **chosen))
    elif args.codec is not None:
        made = _of_encode(EncodeConfig(*_of_folders(args), **chosen))
    else:
        raise ConfigError("vedit data encode: give --config FILE, or --codec FOLDER and DIR.")
    if not directories:
        raise ConfigError("vedit data encode: names no folder of shards; give DIR.")
    return replace(made, directories=directories)


def run_plan(chosen: Plan, progress: Callable[[str], None] = print) -> None:
    """Load codec and context encoder, and encode every folder.

    Args:
        chosen: What to encode, and how.
        progress: Receives one line per step.

    Raises:
        ConfigError: A class cannot be made.
        WeightsError: Its weights do not fit.
        DataError: Shards are missing or damaged, or another process is writing there.
    """
    for directory in chosen.directories:  # before anything is loaded
        read_index(directory)
        check_free(directory)
    device = chosen.encode.device or ("cuda" if torch.cuda.is_available() else "cpu")
    codec = _ready(chosen.codec, device)
    words = None
    if chosen.context is not None:
        # Only features of the frozen part are cached: whatever follows may have any width. Where
        # there is a model's configuration, `_of_model` takes its backbone's sizes instead.
        spec = BackboneSpec(
            8, codec.latent_channels, (1, 2, 2), cross_attention=True, streams=STREAMS
        )
        words = _ready(partial(chosen.context, spec), device)
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


def _ready(factory: Callable[[], Any], device: str) -> Any:
    return materialise(factory).eval().requires_grad_(False).to(device)


def _prefixed(progress: Callable[[str], None], name: str) -> Callable[[str], None]:
    return lambda line: progress(f"[{name}] {line}")


# --- where the encoders come from ----------------------------------------------------------


def _of_encode(encode: EncodeConfig) -> Plan:
    codec = factory(encode.codec, "encode.codec")
    context = None if encode.context is None else factory(encode.context, "encode.context")
    return Plan((), codec, context, encode)


def _of_folders(args: argparse.Namespace) -> tuple[Component, Component | None]:
    """Components for the folders of ``--codec`` and ``--context``."""
    codec = Component(WAN_VAE, {"weights": str(args.codec)})
    if args.context is None:
        return codec, None
    sizes = read_config(args.context)
    words = {name: sizes[name] for name in UMT5_SIZES if name in sizes}
    words |= {"weights": str(args.context), "tokenizer": str(args.tokenizer or args.context)}
    if args.max_tokens is not None:
        words["max_tokens"] = args.max_tokens
    return codec, Component(UMT5, words)


def _of_model(path: Path, overrides: Sequence[tuple[str, Any]], chosen: dict[str, Any]) -> Plan:
    """The encoders of a model's configuration, exactly as training will make them."""
    from vedit.cli.experiment import check, read, system

    model = system(check(read([str(path)], overrides), trainer=False))
    # The record says how to encode; the encoders themselves come from the model.
    encode = EncodeConfig(Component("model.codec"), **chosen)
    make_context = model.make_context
    if make_context is None:
        return Plan((), model.make_codec, None, encode)
    with torch.device("meta"):
        spec = model.make_backbone().spec
    return Plan((), model.make_codec, lambda _: make_context(spec), encode)


def factory(component: Component, place: str) -> Callable[..., Any]:
    """A function that makes the component, given what only the program knows.

    Args:
        component: Its class and arguments.
        place: Names the key in errors.

    Returns:
        Takes what comes late, and makes the component.

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
    given = component.init_args.items()
    return partial(found, **{n: _part(v, f"{place}.init_args.{n}") for n, v in given})


def _part(value: Any, place: str) -> Any:
    """An argument; one with a class_path is a component that makes a part."""
    if not (isinstance(value, Mapping) and "class_path" in value):
        return value
    return factory(Component(value["class_path"], dict(value.get("init_args") or {})), place)


def _class(path: str, place: str) -> type:
    module, _, name = path.rpartition(".")
    try:
        holder = import_module(module)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{place}: {path!r} cannot be imported ({error}).") from error
    if not isinstance(getattr(holder, name, None), type):
        raise ConfigError(f"{place}: {module} has no class {name!r}.{nearest(name, dir(holder))}")
    return getattr(holder, name)
