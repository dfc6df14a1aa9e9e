"""`vedit fit | validate | test | predict`: LightningCLI over a composed configuration."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vedit.cli.arguments import parse_arguments
from vedit.cli.experiment import KEYS, check, checkpoint_path, read
from vedit.cli.extends import Composed
from vedit.cli.yaml_file import Tree
from vedit.errors import ConfigError


def main(command: str, given: Sequence[str]) -> int:
    """Run one of the four commands.

    Args:
        command: fit, validate, test or predict.
        given: what follows it.

    Returns:
        The exit code.

    Raises:
        VeditError: for whatever a user can put right.
    """
    arguments = parse_arguments(given, flags=("help", "print_config"))
    if "help" in arguments.flags:
        print(usage(command))
        return 0
    composed = read(arguments.configs, arguments.overrides)
    checkpoint_path(composed)
    checked = check(composed)
    if "print_config" in arguments.flags:
        import yaml

        print(yaml.safe_dump(checked, sort_keys=False), end="")
        return 0
    if command == "fit":
        refuse_to_overwrite(composed, checked)
    return run(command, checked)


def run(command: str, checked: Tree) -> int:
    """Hand a checked configuration to Lightning.

    Args:
        command: fit, validate, test or predict.
        checked: from `vedit.cli.experiment.check`.

    Returns:
        0, or 130 after Ctrl-C.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from vedit.callbacks.checkpoint import Interrupted
    from vedit.cli.lightning_cli import EditCLI

    try:
        EditCLI.run(command, checked)
    except Interrupted as stop:
        resume = f"--ckpt_path {stop.checkpoint}" if stop.checkpoint else "nothing to resume from"
        config = f"--config {stop.config} " if stop.config else ""
        print(
            f"vedit: interrupted at step {stop.step}; resume with: "
            f"vedit {command} {config}{resume}",
            file=sys.stderr,
        )
        return 130
    except MisconfigurationException as error:
        raise ConfigError(f"trainer: {error}") from error
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise
    return 0


def refuse_to_overwrite(composed: Composed, checked: Tree) -> None:
    """Keep a new training from mixing with an old one of the same name.

    Args:
        composed: names the place of `name` in the message.
        checked: says where the run writes, and whether it resumes.

    Raises:
        ConfigError: if the run's folder holds checkpoints and no `ckpt_path` is given.
    """
    folder = run_folder(checked)
    if folder is None or checked.get("ckpt_path") or checked["trainer"].get("fast_dev_run"):
        return
    found = sorted((folder / "checkpoints").glob("*.ckpt"))
    if found:
        last = folder / "checkpoints" / "last.ckpt"
        resume = last if last in found else found[-1]
        raise composed.error(
            "name",
            f"{folder} holds a run already; resume it with --ckpt_path {resume}, "
            "choose another with --name, or remove the folder",
        )


def run_folder(checked: Tree) -> Path | None:
    """Where the first configured logger writes: runs/NAME; None without a logger."""
    loggers = checked["trainer"].get("logger")
    logger = loggers[0] if isinstance(loggers, list) and loggers else loggers
    if not isinstance(logger, dict):
        return None
    arguments = logger.get("init_args") or {}
    parts = [arguments.get(key) for key in ("save_dir", "name", "version")]
    return Path(*[str(part) for part in parts if part]) if parts[0] else None


def usage(command: str) -> str:
    """The help text of one command; imports nothing."""
    width = max(map(len, KEYS))
    keys = "\n".join(f"  {key:{width}}  {text}" for key, text in KEYS.items())
    return (
        f"usage: vedit {command} --config FILE [--config OVERLAY ...] [--KEY VALUE ...]\n\n"
        "Later files win over earlier ones, --KEY VALUE wins over all. A file may extend others\n"
        "(`extends: base/nano`) and refer to its own keys (`${seed_everything}`).\n\n"
        f"keys:\n{keys}\n\n"
        "examples of KEY:\n"
        "  --trainer.max_steps 3\n"
        "  --model.source null\n"
        "  --model.source.time before\n"
        "  --trainer.callbacks+ '{class_path: SampleVideos}'\n\n"
        "--print_config shows the composed configuration and stops."
    )
