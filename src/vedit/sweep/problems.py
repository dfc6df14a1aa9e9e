"""Mistakes in a grid, gathered so that all of them are told at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vedit.errors import ConfigError, nearest


class GridErrors(ConfigError):
    """All mistakes in one grid.

    Args:
        problems: one line each.

    Attributes:
        problems: one line each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class Problems:
    """Gathers mistakes; each begins with the file and the key.

    Args:
        file: the grid.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[str] = []

    def add(self, key: str, problem: str) -> None:
        """Note a mistake; one that is noted already is not repeated."""
        self.note(f"{self.file}: {key}: {problem}" if key else f"{self.file}: {problem}")

    def note(self, line: str) -> None:
        """Note a mistake whose line is complete; one that is noted already is not repeated."""
        if line not in self.found:
            self.found.append(line)

    def stop(self) -> None:
        """End here if anything is wrong.

        Raises:
            GridErrors: with every mistake noted so far.
        """
        if self.found:
            raise GridErrors(self.found)

    def known(self, key: str, name: Any, names: Collection[str], what: str = "key") -> bool:
        """Whether a name is one of those there are; notes it otherwise."""
        if name in names:
            return True
        hint = nearest(str(name), names) or f" There are: {', '.join(map(str, names)) or 'none'}"
        place = f"{key}.{name}" if what == "key" and key else str(name) if what == "key" else key
        named = "unknown key" if what == "key" else f"no {what} is called '{name}'"
        self.add(place, f"{named}.{hint}")
        return False

    def mapping(self, key: str, value: Any, names: Collection[str] | None = None) -> dict[str, Any]:
        """The value as keys with values, the unknown ones noted and dropped; empty for nothing."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.add(key, f"expected keys with values, got {value!r}")
            return {}
        found = {str(name): inner for name, inner in value.items()}
        if names is None:
            return found
        return {name: inner for name, inner in found.items() if self.known(key, name, names)}

    def listed(self, key: str, value: Any, of: type = str) -> tuple[Any, ...]:
        """The value, or the values of a list; those of another type are noted and dropped."""
        values = value if isinstance(value, list) else [] if value is None else [value]
        right = [v for v in values if isinstance(v, of) and not (of is int and isinstance(v, bool))]
        if len(right) != len(values):
            nouns = {str: "names", int: "whole numbers", Mapping: "keys with values"}
            self.add(key, f"expected a list of {nouns.get(of, of.__name__)}, got {value!r}")
        return tuple(right)

    def number(self, key: str, value: Any, whole: bool = False) -> float | int | None:
        """The value as a number above zero; None, noted, if it is none."""
        kinds = (int,) if whole else (int, float)
        if isinstance(value, kinds) and not isinstance(value, bool) and value > 0:
            return value
        self.add(key, f"expected a {'whole ' if whole else ''}number above 0, got {value!r}")
        return None

    def text(self, key: str, value: Any) -> str:
        """The value as text; empty, noted, if it is none."""
        if isinstance(value, str):
            return value
        self.add(key, f"expected text, got {value!r}")
        return ""
