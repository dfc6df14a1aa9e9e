"""How a trainer of one process, or one whose processes hold everything, reads checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO

from vedit.finetune.checkpoint_file import read_checkpoint
from vedit.parallel.checkpoint import is_sharded


class AnyCheckpointIO(TorchCheckpointIO):
    """Files as Lightning reads and writes them, and folders that several ranks wrote."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a file, also in place of a folder.

        Args:
            checkpoint: as Lightning's.
            path: of the file.
            storage_options: as Lightning's.
        """
        if not is_sharded(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        fresh = Path(path).with_name(f".{Path(path).name}.new")
        super().save_checkpoint(checkpoint, fresh, storage_options)
        shutil.rmtree(path)
        fresh.replace(path)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read either; a folder is joined to what a file would hold.

        Args:
            path: of the checkpoint.
            *args: as Lightning's, for files.
            **kwargs: the same.

        Returns:
            The checkpoint, whole.
        """
        if is_sharded(path):
            return read_checkpoint(path, resume=True)
        found: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)
        return found


def reading_folders(plugin: CheckpointIO) -> CheckpointIO:
    """The plugin that reads folders too.

    Args:
        plugin: of a strategy.

    Returns:
        `AnyCheckpointIO` for Lightning's own, any other plugin as it is.
    """
    return AnyCheckpointIO() if type(plugin) is TorchCheckpointIO else plugin
