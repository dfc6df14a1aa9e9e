"""The commands, each imported only when it is called, and how mistakes are shown."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from vedit.errors import ConfigError, VeditError, nearest


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        module: where it lives. A module with `main(command, arguments)` parses for itself; any
            other has `add_arguments(parser)` and `run(args)`.
        help: one line for `vedit --help`.
    """

    module: str
    help: str


COMMANDS = {
    "fit": Command("vedit.cli.train", "train, or resume with --ckpt_path"),
    "validate": Command("vedit.cli.train", "compute the validation loss of a checkpoint"),
    "test": Command("vedit.cli.train", "edit the test set and measure the result"),
    "predict": Command("vedit.cli.train", "edit a data set and keep the result"),
    "describe": Command("vedit.cli.describe", "show tokens, parameters and FLOPs of a config"),
    "sweep": Command("vedit.cli.sweep", "run a grid of experiments, and make its table"),
    "data": Command("vedit.cli.data", "fetch, build, encode and inspect data"),
    "edit": Command("vedit.cli.edit", "edit one video with a trained checkpoint"),
    "export": Command("vedit.cli.export", "write a checkpoint for diffusers or ComfyUI"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows `vedit`; None takes it from the process.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("VEDIT_DEBUG", "") not in ("", "0")
    given = [argument for argument in given if argument != "--debug"]
    try:
        return _dispatch(given)
    except VeditError as error:
        if debug:
            raise
        print(f"vedit: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        if debug:
            raise
        print("vedit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe (`| head`) left: stay silent at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(_help())
        return 0
    if given[0] in ("-V", "--version"):
        from vedit import __version__

        print(__version__)
        return 0
    name, rest = given[0], given[1:]
    if name not in COMMANDS:
        raise ConfigError(
            f"'{name}' is no command.{nearest(name, COMMANDS)} There are: {', '.join(COMMANDS)}"
        )
    module = import_module(COMMANDS[name].module)
    if hasattr(module, "main"):
        return int(module.main(name, rest) or 0)
    parser = Parser(prog=f"vedit {name}", description=module.__doc__)
    module.add_arguments(parser)
    try:
        args = parser.parse_args(rest)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return int(module.run(args) or 0)


class Parser(argparse.ArgumentParser):
    """argparse, but wrong usage is a one-line `ConfigError`."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise instead of printing the usage and leaving."""
        raise ConfigError(f"{self.prog}: {message} (see {self.prog} --help)")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vedit COMMAND ...",
            "",
            "Research on video editing with conditioned diffusion transformers.",
            "",
            *lines,
            "",
            "vedit COMMAND --help says more. --debug (or VEDIT_DEBUG=1) shows tracebacks.",
        ]
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
