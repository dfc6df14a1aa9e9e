"""From a checkpoint back to the system that made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from vedit import __version__
from vedit.data.transforms import Letterbox, ReferenceTransform
from vedit.editor.reference import reference_transform
from vedit.editor.wrong_class import find_wrong
from vedit.errors import ConfigError, DataError, VeditError, WeightsError, nearest
from vedit.finetune.checkpoint_file import is_checkpoint, read_checkpoint
from vedit.released import Released, read_released

if TYPE_CHECKING:
    from vedit.system import EditSystem


@dataclass(frozen=True)
class ClipSize:
    """Frames and pixels of a clip, as the model sees it."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds, ready to edit.

    Attributes:
        path: The file.
        system: With its weights, in evaluation mode.
        size: Of the clips it was trained on; None if the checkpoint does not say.
        precision: Lightning's name of the number format it was trained in.
        reference: Brings references to the size of a clip as they were in training.
    """

    path: Path
    system: EditSystem
    size: ClipSize | None
    precision: str
    reference: ReferenceTransform = field(default_factory=Letterbox)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a run's folder, its ``checkpoints`` folder or a checkpoint itself means.

    Of several ``last.ckpt`` is taken, or else the newest.

    Args:
        path: Any of the three.

    Returns:
        The file, or the folder that several ranks wrote.

    Raises:
        WeightsError: There is none.
    """
    path = Path(path)
    if is_checkpoint(path):
        return path
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, siblings)
        raise WeightsError(f"{path}: no such checkpoint or run (from {Path.cwd()}).{hint}")
    folders = (path / "checkpoints", path)
    for folder in folders:
        files = sorted(folder.glob("*.ckpt"), key=lambda f: f.stat().st_mtime)
        files = [f for f in files if is_checkpoint(f)]
        if files:
            return next((f for f in files if f.name == "last.ckpt"), files[-1])
    raise WeightsError(
        f"{path}: holds no checkpoint; expected checkpoints/last.ckpt in it, "
        "or the parts of a published model (transformer/, vae/ and so on)."
    )


Weights = Literal["average", "trained"]


def load_trained(
    path: str | Path, device: str | torch.device = "cpu", weights: Weights | None = None
) -> Trained:
    """Build the system a checkpoint was made by, and give it its weights.

    Args:
        path: A run's folder, its ``checkpoints`` folder, a file, or the folder of a published
            model.
        device: Where the system goes.
        weights: The average of the weights that training kept, or those that it ended with; None
            takes the average where there is one.

    Returns:
        The system, in evaluation mode, and what else the checkpoint tells.

    Raises:
        WeightsError: There is no checkpoint, or it does not fit its own configuration; or it holds
            no average, which was asked for.
        ConfigError: Its configuration names what this installation does not have.
    """
    released = read_released(path)
    if released is not None and weights == "average":
        raise WeightsError(f"{path}: published weights; there is no average besides.")
    if released is not None:
        return load_released(released, device)
    path = find_checkpoint(path)
    checkpoint = read_checkpoint(path, mmap=True)
    config = checkpoint.get("config")
    if not isinstance(config, Mapping) or "model" not in config:
        raise WeightsError(f"{path}: holds no configuration; it was not made by `vedit fit`.")
    try:
        system = _stored_system(checkpoint, config, path)
    except VeditError as error:
        raise type(error)(f"{error}{_other_version(checkpoint)}") from error
    _settle(system, weights, path)
    _ready(system, device)
    precision = str((config.get("trainer") or {}).get("precision") or "32-true")
    reference = reference_transform(config, str(path))
    return Trained(path, system, _trained_size(checkpoint), precision, reference)


def _stored_system(
    checkpoint: Mapping[str, Any], config: Mapping[str, Any], path: Path
) -> EditSystem:
    model = config["model"]
    # A checkpoint starts from its own weights, not from those its training started from.
    system = make_system({**(model.get("init_args") or model), "init_from": None}, str(path))
    system.config = dict(config)
    system.configure_model()
    system.load_trained(checkpoint["state_dict"], str(path))
    return system


def _settle(system: EditSystem, weights: Weights | None, path: Path) -> None:
    if weights == "average" and system.average is None:
        raise WeightsError(
            f"{path}: holds no average of its weights; it was trained without model.averaging."
        )
    system.settle(averaged=weights != "trained")


def _other_version(checkpoint: Mapping[str, Any]) -> str:
    """What to add to a message if another version wrote the checkpoint."""
    version = checkpoint.get("vedit_version")
    if version in (None, __version__):
        return ""
    return f" It was written by vedit {version}, this is {__version__}."


def load_released(released: Released, device: str | torch.device = "cpu") -> Trained:
    """Build the system that a folder of published weights amounts to.

    Args:
        released: from `vedit.released.read_released`.
        device: Where the system goes.

    Returns:
        The system, in evaluation mode. On a GPU it edits in bfloat16, as such models are published.

    Raises:
        WeightsError: A part without which no video can be edited is missing, or does not fit.
        ConfigError: A part's config asks for what this installation does not have.
    """
    released.require_complete()
    system = make_system(released.model, str(released.folder))
    system.config = {"model": released.model, "data": {"reference": released.reference}}
    system.configure_model()
    _ready(system, device)
    size = None if released.size is None else ClipSize(*released.size)
    given = {"data": {"reference": released.reference}}
    reference = reference_transform(given, str(released.folder))
    return Trained(released.folder, system, size, "bf16-mixed", reference)


def _ready(system: EditSystem, device: str | torch.device) -> None:
    system.eval().requires_grad_(False)
    try:
        system.to(device)
    except (RuntimeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device: '{device}' is not to be had here ({reason}); expected cpu, or cuda where "
            "there is a GPU."
        ) from error


def make_system(model: Mapping[str, Any], where: str) -> EditSystem:
    """Make the system that the ``model`` part of a configuration describes, without weights.

    Args:
        model: Arguments of `EditSystem`.
        where: Names the place in errors.

    Returns:
        The system, its parts not yet built.

    Raises:
        ConfigError: A class or an argument does not exist here.
    """
    from jsonargparse import ArgumentError as WrongArgument
    from jsonargparse import ArgumentParser

    from vedit.system import EditSystem

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(EditSystem, "model")
    try:
        parsed = parser.parse_object({"model": dict(model)})
        return parser.instantiate(parsed).model
    except WrongArgument as error:
        problem = find_wrong(dict(model), "model", EditSystem) or " ".join(str(error).split())
        raise ConfigError(f"{where}: {problem}") from error


def _trained_size(checkpoint: Mapping[str, Any]) -> ClipSize | None:
    """The size that training recorded, or that of the training data if it is still there."""
    size = (checkpoint.get("vedit") or {}).get("clip_size")
    if size:
        return ClipSize(*size)
    data = checkpoint["config"].get("data") or {}
    folders = data.get("init_args", data).get("train") or []
    for folder in [folders] if isinstance(folders, str) else folders:
        from vedit.data.index import read_index

        try:
            records = [entry.record for entry in read_index(folder).entries]
        except DataError:
            continue
        sizes = Counter(ClipSize(r.frames, r.height, r.width) for r in records)
        return sizes.most_common(1)[0][0]
    return None
