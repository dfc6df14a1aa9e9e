"""`EditCLI`: LightningCLI that is handed a checked configuration instead of a command line."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)

from vedit.callbacks.checkpoint import StopOnInterrupt
from vedit.callbacks.peers import WatchPeers
from vedit.callbacks.report import TrainClock
from vedit.cli.experiment import one_line_errors
from vedit.cli.yaml_file import Tree
from vedit.data.module import EditData
from vedit.errors import ConfigError
from vedit.system import EditSystem


class EditCLI(LightningCLI):
    """Parses, instantiates and runs one command.

    `model` and `data` take the arguments of `EditSystem` and `EditData`, or the `class_path` of a
    subclass (of any `LightningDataModule` for data).
    """

    command = "fit"

    @classmethod
    def run(cls, command: str, checked: Tree) -> EditCLI:
        """Run `command` on a configuration from `vedit.cli.experiment.check`."""
        silence()
        chosen = type(cls.__name__, (cls,), {"command": command})
        own_data = "class_path" in checked["data"]
        return chosen(
            EditSystem,
            LightningDataModule if own_data else EditData,
            subclass_mode_model="class_path" in checked["model"],
            subclass_mode_data=own_data,
            save_config_callback=SaveConfigCallback if command == "fit" else None,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={"callbacks": [StopOnInterrupt(), TrainClock(), WatchPeers()]},
            parser_kwargs={"exit_on_error": False, command: {"exit_on_error": False}},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args={"subcommand": command, command: checked},
        )

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """Only the command that runs: parsers for the others would take seconds to build."""
        chosen = cls.command
        return {name: keys for name, keys in LightningCLI.subcommands().items() if name == chosen}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let the run have a name."""
        parser.add_argument("--name", type=str, help="of the run")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the checked configuration; anything left to object to is one line."""
        with one_line_errors():
            self.config = parser.parse_object(args)

    def _parse_ckpt_path(self) -> None:
        """A checkpoint changes no argument; what it must fit is checked when it is loaded."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer; what Lightning objects to is one line.

        Args:
            **kwargs: as LightningCLI's.

        Returns:
            The trainer.

        Raises:
            ConfigError: if arguments do not fit each other or this machine.
        """
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error

    def after_instantiate_classes(self) -> None:
        """Give the system its configuration, which goes into every checkpoint."""
        parser = self._parser(self.subcommand)
        text = parser.dump(self.config[self.subcommand], skip_unset=False, format="yaml")
        tree = yaml.safe_load(text)
        tree.pop("config", None)  # the path of a file that is merged already
        self.model.config = plain(tree)


def silence() -> None:
    """Drop what Lightning says to everybody and nobody here can act on."""
    for message in (
        ".*isinstance.treespec, LeafSpec.*",
        ".*module.s. in eval mode at the start of training.*",  # the codec, on purpose
        "The '.*_dataloader' does not have many workers",  # cached latents need none
        "You're resuming from a checkpoint that ended",  # EditData knows where it stands
        ".*Checkpoint directory .* exists and is not empty.*",  # resuming
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )


def plain(tree: Any) -> Any:
    """The tree in types that `torch.load(weights_only=True)` reads."""
    if isinstance(tree, dict):
        return {str(key): plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [plain(value) for value in tree]
    return tree if isinstance(tree, (int, float, bool, type(None))) else str(tree)
