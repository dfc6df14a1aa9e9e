"""The command line. Importing it costs nothing; each command brings its own weight."""

from vedit.cli.dispatch import main

__all__ = ["main"]
