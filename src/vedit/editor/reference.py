"""How reference images come to the size of a clip: as in training, without its chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vedit.data.transforms import Letterbox, ReferenceTransform
from vedit.errors import ConfigError


def reference_transform(config: Mapping[str, Any], where: str) -> ReferenceTransform:
    """The reference transform that a configuration trains with, made still.

    Args:
        config: with `data.reference`, as a checkpoint stores it; or without.
        where: the checkpoint, for messages.

    Returns:
        What brings references to the size of a clip; a letterbox on black if nothing is configured.

    Raises:
        ConfigError: its class or an argument does not exist here.
    """
    from jsonargparse import ArgumentError as WrongArgument
    from jsonargparse import ArgumentParser

    data = config.get("data") or {}
    reference = (data.get("init_args") or data).get("reference")
    if not reference:
        return Letterbox()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--reference", type=ReferenceTransform)
    try:
        parsed = parser.parse_object({"reference": reference})
        made: ReferenceTransform = parser.instantiate(parsed).reference
    except WrongArgument as error:
        raise ConfigError(f"{where}: data.{' '.join(str(error).split())}") from error
    return made.still()
