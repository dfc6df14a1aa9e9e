"""A counter that a person watches."""

from __future__ import annotations

import sys


class ProgressLine:
    """Overwrites itself on standard error; silent where nobody watches."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._shown = False

    def update(self, done: int, total: int) -> None:
        """Show "label done/total"."""
        if sys.stderr.isatty():
            self._shown = True
            print(f"\r{self._label} {done}/{total}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print(file=sys.stderr)
