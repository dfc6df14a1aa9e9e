"""Names of reference images, of which a sample may have several: "reference", "reference.1", ..."""

from __future__ import annotations

from collections.abc import Iterable

REFERENCE = "reference"


def reference_name(number: int) -> str:
    """The name of a sample's reference.

    Args:
        number: from 0.

    Returns:
        The name.

    Examples:
        >>> reference_name(0), reference_name(2)
        ('reference', 'reference.2')
    """
    return f"{REFERENCE}.{number}" if number else REFERENCE


def is_reference(name: str) -> bool:
    """Whether a name is a reference's; the name of its file counts too."""
    return name.partition(".")[0] == REFERENCE


def reference_names(names: Iterable[str]) -> list[str]:
    """Those of some names that are a reference's, in their order."""
    return [name for name in names if is_reference(name)]
