"""Sizes of a vision-language model of transformers, from YAML or from a checkpoint's folder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vedit.context.frames import PatchGeometry
from vedit.errors import ConfigError, WeightsError, nearest
from vedit.folders import resolve_folder
from vedit.weights import read_config

KEY = "model.context.init_args.config"
LATER_ROPE = {"rope_theta", "rope_scaling"}  # names that transformers moved into rope_parameters
ROPE = ("rope_theta", "mrope_section", "mrope_interleaved")
HARMLESS = {"max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"}
HALF = (0.5, 0.5, 0.5)  # mean and deviation of colours of towers that tell time in words


def vlm_config(config: Mapping[str, Any] | str | None, weights: str | None) -> Any:
    """The configuration of a vision-language model.

    Args:
        config: sizes by their names in ``config.json``, with ``model_type``; or the folder or file
            that holds them; None takes the folder of the weights.
        weights: folder or hub id of the weights.

    Returns:
        A configuration of transformers.

    Raises:
        ConfigError: if there is none, or it has a name or value that the model does not take.
        WeightsError: if the file is missing.
    """
    from transformers import AutoConfig

    if config is None and weights is None:
        raise ConfigError(f"{KEY}: is null and so is weights; give the model's sizes")
    if isinstance(config, Mapping):
        sizes = {key: dict(v) if isinstance(v, Mapping) else v for key, v in config.items()}
        return _config_of_sizes(sizes)
    file = _config_file(config or str(weights))
    try:
        return AutoConfig.from_pretrained(file)
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WeightsError(
            f"{file}: describes no vision-language model ({reason[:120]}); {KEY} may name "
            "another file."
        ) from error


def _config_file(path: str) -> Path:
    if Path(path).is_file():
        return Path(path)
    folder = resolve_folder(Path(path).parent if path.endswith(".json") else path)
    file = folder / Path(path).name if path.endswith(".json") else folder / "config.json"
    if not file.is_file():
        raise WeightsError(f"{file}: no such file; {KEY} names the model's sizes or their file.")
    return file


def _config_of_sizes(sizes: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    kind = sizes.pop("model_type", None)
    try:
        base = AutoConfig.for_model(kind)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{KEY}.model_type: {kind!r} is no model of transformers") from error
    _check_names(sizes, base, KEY)
    for part in ("text_config", "vision_config"):
        if part in sizes:
            _check_names(sizes[part], getattr(base, part, None), f"{KEY}.{part}")
    text = sizes.setdefault("text_config", {})
    text |= {name: text.get(name) for name in ("bos_token_id", "eos_token_id")}  # ours are unused
    try:
        return AutoConfig.for_model(kind, **sizes)
    except Exception as error:  # transformers checks types with classes of its own
        reason = " ".join(str(error).split())
        raise ConfigError(f"{KEY}: {reason[:200]}") from error


def _check_names(given: Mapping[str, Any], config: Any, where: str) -> None:
    known = set(inspect.signature(type(config).__init__).parameters) | LATER_ROPE
    known |= set(vars(config)) if config is not None else set()
    for name in given:
        if name not in known:
            raise ConfigError(f"{where}.{name}: no such size.{nearest(name, known)}")


def check_sizes(config: Any, given: Mapping[str, Any], folder: Path) -> None:
    """Compare sizes from YAML with the ``config.json`` of the weights they are to load.

    Shapes are compared when the weights are loaded; this finds what no shape shows, such as the
    number of heads.

    Args:
        config: what `vlm_config` made of `given`.
        given: the sizes that were given.
        folder: of the weights; where it describes no such model there is nothing to compare.

    Raises:
        WeightsError: if a size differs; the message names the key and the value to give it.
    """
    from transformers import AutoConfig

    path = folder / "config.json"
    if not path.is_file() or "model_type" not in read_config(folder):
        return
    theirs, wrong = AutoConfig.from_pretrained(path), []
    for part in ("text_config", "vision_config"):
        names = set(given.get(part, {})) - LATER_ROPE - HARMLESS
        ours, other = getattr(config, part), getattr(theirs, part, None)
        pairs = {n: (getattr(ours, n, None), getattr(other, n, None)) for n in sorted(names)}
        pairs |= {f"rope_parameters.{n}": (_rope(ours, n), _rope(other, n)) for n in ROPE}
        wrong += [
            f"{KEY}.{part}.{name} is {mine} but the weights have {their}"
            for name, (mine, their) in pairs.items()
            if _plain(mine) != _plain(their) and name != "rope_parameters"
        ]
    if wrong:
        raise WeightsError(f"{path}: {'; '.join(wrong[:3])}.")


def _rope(config: Any, name: str) -> Any:
    return (getattr(config, "rope_parameters", None) or {}).get(name)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def geometry_of(config: Any) -> PatchGeometry:
    """How the vision tower cuts its pictures, and the colours it expects.

    Args:
        config: what `vlm_config` gave.

    Returns:
        Sizes and colours.
    """
    vision = config.vision_config
    sizes = (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
    return PatchGeometry(*sizes, HALF, HALF) if tells_time(config) else PatchGeometry(*sizes)


def tells_time(config: Any) -> bool:
    """Whether time is told in words before each group of frames (Qwen3-VL), not by positions."""
    return not hasattr(config.vision_config, "tokens_per_second")
