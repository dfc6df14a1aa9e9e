"""`vedit describe`: tokens, parameters and operations of a configuration, without its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vedit.cli.arguments import parse_arguments
from vedit.cli.experiment import check, read, system
from vedit.cli.extends import Composed, Layer
from vedit.errors import ConfigError, DataError

USAGE = """\
usage: vedit describe --config FILE [--checkpoint FILE] [--frames N --height N --width N]
                      [--references N] [--json] [--KEY VALUE ...]

Builds the configured system on the meta device, where shapes cost no memory, and shows the segments
of its token sequence, its parameters and its floating-point operations.

  --frames, --height, --width  size of the video; otherwise that of the first training sample
  --references N               reference images, if the configuration takes any (default 1)
  --checkpoint FILE            take the configuration from a checkpoint, and check that it fits
  --json                       print JSON
"""


def main(command: str, given: Sequence[str]) -> int:
    """Run the command.

    Args:
        command: "describe".
        given: what follows it.

    Raises:
        ConfigError: if the configuration or the size is wrong.
        WeightsError: if the checkpoint does not fit.
    """
    arguments = parse_arguments(given, flags=("help", "json"))
    if "help" in arguments.flags:
        print(USAGE, end="")
        return 0
    own = {"frames", "height", "width", "references", "checkpoint"}
    options = {key: value for key, value in arguments.overrides if key in own}
    overrides = [(key, value) for key, value in arguments.overrides if key not in own]
    if "checkpoint" in options and not arguments.configs:
        composed = _from_checkpoint(str(options["checkpoint"]))
    else:
        composed = read(arguments.configs, overrides)
    checked = check(composed, trainer=False)
    size = _size(options, checked.get("data") or {})

    from vedit.callbacks.description import describe

    built = system(checked)
    built.build(meta=True)
    if "checkpoint" in options:
        _check_fit(built, str(options["checkpoint"]))
    description = describe(built, *size, references=int(options.get("references") or 1))
    as_json = "json" in arguments.flags
    print(json.dumps(description.as_dict(), indent=2) if as_json else description.text())
    return 0


def _size(options: dict[str, Any], data: dict[str, Any]) -> tuple[int, int, int]:
    names = ("frames", "height", "width")
    given = [options.get(name) for name in names]
    whole = [value for value in given if isinstance(value, int) and value > 0]
    if len(whole) == len(names):
        return whole[0], whole[1], whole[2]
    if any(value is not None for value in given):
        raise ConfigError("--frames, --height, --width: expected three whole numbers above 0")
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


def _load(path: str) -> dict[str, Any]:
    import torch

    if not Path(path).is_file():
        raise ConfigError(f"--checkpoint: no such file: {path}")
    loaded: dict[str, Any] = torch.load(path, map_location="meta", weights_only=True)
    return loaded


def _from_checkpoint(path: str) -> Composed:
    config = _load(path).get("config")
    if not config:
        raise ConfigError(f"--checkpoint: {path} holds no configuration; give --config too")
    return Composed(config, (Layer(path, config),))


def _check_fit(built: Any, path: str) -> None:
    built.load_trained(_load(path)["state_dict"], path)
