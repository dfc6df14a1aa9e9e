"""What a sweep asks of the layer above it, which reads and checks experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Tree = dict[str, Any]


class Composition(Protocol):
    """An experiment composed of files and overrides."""

    @property
    def tree(self) -> Tree:
        """Plain data with nothing left to resolve."""
        ...


def data_of(checked: Tree) -> Tree:
    """The arguments of an experiment's data, whether or not it names a class of its own."""
    data: Tree = checked.get("data") or {}
    return (data.get("init_args") or {}) if "class_path" in data else data


@dataclass(frozen=True)
class Facts:
    """What building an experiment on the meta device tells.

    Attributes:
        parameters: that train.
        frozen: parameters that do not.
        tokens: of one sample; None if no size of video is known.
        step_flops: operations of training on one sample; None if no size of video is known.
    """

    parameters: int
    frozen: int
    tokens: int | None = None
    step_flops: float | None = None


class Experiments(Protocol):
    """Reads, checks and builds experiments."""

    def find(self, name: str, beside: Path) -> str:
        """The file that a name in another file means.

        Args:
            name: a path, with or without `.yaml`.
            beside: the other file.

        Returns:
            Its path.

        Raises:
            ConfigError: there is none.
        """
        ...

    def read_yaml(self, path: Path) -> Tree:
        """Read one YAML mapping.

        Args:
            path: of the file.

        Returns:
            Its content.

        Raises:
            ConfigError: it is none.
        """
        ...

    def merge(self, base: Tree, top: Mapping[str, Any]) -> Tree:
        """Merge two trees as an experiment's files are merged."""
        ...

    def sweep_section(self, files: Sequence[str]) -> Tree:
        """What overlays say about the sweep itself, under `sweep`.

        Args:
            files: the overlays.

        Returns:
            Their sections merged, with what they extend.

        Raises:
            ConfigError: a file cannot be read.
        """
        ...

    def compose(self, files: Sequence[str], overrides: Sequence[tuple[str, Any]]) -> Composition:
        """Compose an experiment.

        Args:
            files: later ones win.
            overrides: (dotted key, value) pairs that win over all files.

        Returns:
            The experiment, its top level checked.

        Raises:
            ConfigError: a file or a key is wrong.
        """
        ...

    def check(self, composition: Composition) -> Tree:
        """Check every key against the constructors, and write class names out in full.

        Args:
            composition: from `compose`.

        Returns:
            The checked configuration.

        Raises:
            ConfigError: at the first mistake.
        """
        ...

    def facts(self, checked: Tree, video: tuple[int, int, int] | None) -> Facts:
        """Build on the meta device and count.

        Args:
            checked: from `check`.
            video: (frames, height, width); None takes the size of the first training sample.

        Returns:
            What there is to know.

        Raises:
            VeditError: the parts do not fit each other.
        """
        ...
