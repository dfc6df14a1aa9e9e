"""`vedit describe`: tokens, parameters and operations of a configuration, without its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from vedit.cli.arguments import Arguments, parse_arguments
from vedit.cli.experiment import check, check_top, read, system
from vedit.cli.extends import Composed, Layer, compose_layers
from vedit.cli.yaml_file import Tree
from vedit.errors import ConfigError, DataError

Overrides: TypeAlias = Sequence[tuple[str, Any]]

SPREAD = ("batch", "shard", "context")

USAGE = """\
usage: vedit describe --config FILE [--checkpoint PATH] [--frames N --height N --width N]
                      [--references N] [--batch N] [--shard N] [--context N]
                      [--json | --print_config] [--KEY VALUE ...]

Builds the configured system on the meta device, where shapes cost no memory, and shows the segments
of its token sequence, its parameters, its floating-point operations and the memory that training
takes on one device, by formula.

  --frames, --height, --width  size of the video; otherwise that of the first training sample, or
                               the one at which such a model was published
  --references N               reference images, if the configuration takes any (default 1)
  --batch N                    samples on one device (default 1)
  --shard N, --context N       ranks that share out weights, and those that share the tokens of a
                               sample (default 1)
  --checkpoint PATH            take the configuration from a checkpoint or a run's folder, and check
                               that it fits; or from the folder of a published model
  --json                       print JSON
  --print_config               print the model part of the configuration and do no more
"""


def main(command: str, given: Sequence[str]) -> int:
    """Run the command.

    Args:
        command: "describe".
        given: what follows it.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: if the configuration or the size is wrong.
        WeightsError: if the checkpoint does not fit.
    """
    arguments = parse_arguments(given, flags=("help", "json", "print_config"))
    if "help" in arguments.flags:
        print(USAGE, end="")
        return 0
    own = {"frames", "height", "width", "references", "checkpoint", *SPREAD}
    options = {key: value for key, value in arguments.overrides if key in own}
    overrides = [(key, value) for key, value in arguments.overrides if key not in own]
    known = _known(arguments, options, overrides)
    checked = check(known.composed, trainer=False)
    if "print_config" in arguments.flags:
        import yaml

        print(yaml.safe_dump({"model": checked["model"]}, sort_keys=False), end="")
        return 0
    size = _size(options, checked.get("data") or {}, known.size)

    from vedit.callbacks.description import describe
    from vedit.callbacks.memory import Spread

    built = system(checked)
    built.build(meta=True)
    if known.checkpoint is not None:
        _check_fit(built, known.checkpoint)
    trainer = known.composed.tree.get("trainer") or {}
    batch, shard, context = (_positive(name, options) for name in SPREAD)
    description = describe(
        built,
        *size,
        references=int(options.get("references") or 1),
        precision=str(trainer.get("precision") or "32-true"),
        spread=Spread(batch, shard, context),
    )
    if "json" in arguments.flags:
        print(json.dumps({**description.as_dict(), "notes": known.notes}, indent=2))
    else:
        print(description.text(), *known.notes, sep="\n")
    return 0


@dataclass(frozen=True)
class _Known:
    """A configuration, and what else its origin tells.

    Attributes:
        composed: the configuration.
        checkpoint: a file whose tensors must fit it.
        size: frames, height and width to take if none is given.
        notes: what is missing, a line each.
    """

    composed: Composed
    checkpoint: str | None = None
    size: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()


def _known(arguments: Arguments, options: Mapping[str, Any], overrides: Overrides) -> _Known:
    if "checkpoint" not in options:
        return _Known(read(arguments.configs, overrides))
    path = str(options["checkpoint"])
    if not arguments.configs and (found := _from_released(path, overrides)) is not None:
        return found
    if not Path(path).exists():
        raise ConfigError(f"--checkpoint: no such file or folder: {path}")
    from vedit.editor.checkpoint import find_checkpoint

    path = str(find_checkpoint(path))
    if arguments.configs:
        return _Known(read(arguments.configs, overrides), path)
    composed = _from_checkpoint(path, overrides)
    return _Known(composed, path)


def _from_released(path: str, overrides: Overrides) -> _Known | None:
    from vedit.released import read_released

    found = read_released(path)
    if found is None:
        return None
    model, notes = dict(found.model), [f"no {k}: {v}" for k, v in found.absent.items()]
    if "instruction" in model and "context" not in model:
        del model["instruction"]
        notes.append("described without the instruction")
    tree = {"name": found.folder.name, "model": model}
    return _Known(_overridden(path, tree, overrides), None, found.size, tuple(notes))


def _size(
    options: dict[str, Any], data: dict[str, Any], usual: tuple[int, int, int] | None
) -> tuple[int, int, int]:
    names = ("frames", "height", "width")
    given = [options.get(name) for name in names]
    whole = [value for value in given if isinstance(value, int) and value > 0]
    if len(whole) == len(names):
        return whole[0], whole[1], whole[2]
    if any(value is not None for value in given):
        raise ConfigError("--frames, --height, --width: expected three whole numbers above 0")
    if usual is not None:
        return usual
    folders = (data.get("init_args") or data).get("train")
    first = next(iter([folders] if isinstance(folders, str) else folders or []), None)
    if first is None:
        raise ConfigError("--frames, --height, --width: missing, and data.train names no folder")
    from vedit.data.index import read_index

    try:
        record = read_index(first).entries[0].record
    except (DataError, IndexError) as error:
        raise ConfigError(
            f"--frames, --height, --width: missing, and data.train cannot tell: {error}"
        ) from error
    return record.frames, record.height, record.width


def _positive(name: str, options: Mapping[str, Any]) -> int:
    value = options.get(name, 1)
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"--{name}: expected a whole number above 0, got {value!r}")
    return value


def _load(path: str) -> dict[str, Any]:
    from vedit.finetune.checkpoint_file import read_checkpoint

    return read_checkpoint(path, "meta")


def _overridden(path: str, tree: Tree, overrides: Overrides) -> Composed:
    composed = compose_layers([Layer(path, tree)], overrides)
    if overrides:
        check_top(composed, path)
    return composed


def _from_checkpoint(path: str, overrides: Overrides) -> Composed:
    config = _load(path).get("config")
    if not config:
        raise ConfigError(f"--checkpoint: {path} holds no configuration; give --config too")
    return _overridden(path, config, overrides)


def _check_fit(built: Any, path: str) -> None:
    built.load_trained(_load(path)["state_dict"], path)
