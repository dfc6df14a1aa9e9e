"""Errors that a user can act on: one line, the place, what was expected, the nearest fix."""

from collections.abc import Iterable
from difflib import get_close_matches


class VeditError(Exception):
    """A mistake in what vedit was given; the command line prints it without a traceback."""


class ConfigError(VeditError):
    """A YAML key, an override or an argument is wrong; the message starts with the key."""


class DataError(VeditError):
    """A video, shard or sample is wrong; the message starts with the file and the sample."""


class WeightsError(VeditError):
    """Weights do not fit the model; the message starts with the file or folder."""


class TrainingError(VeditError):
    """Training cannot go on; the message starts with the step."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """The hint for a misspelt name.

    Args:
        name: what was given.
        candidates: what is allowed.

    Returns:
        " Did you mean 'x'?" for the closest candidate, or an empty string if none is close.

    Examples:
        >>> nearest("grayscael", ["grayscale", "sepia"])
        " Did you mean 'grayscale'?"
        >>> nearest("zzz", ["grayscale"])
        ''
        >>> nearest("Lora", ["Full", "LoRA"])
        " Did you mean 'LoRA'?"
    """
    known = list(candidates)
    found = get_close_matches(name, known, n=1, cutoff=0.6)
    if not found:  # only the case may be wrong, as in Lora for LoRA
        found = [other for other in known if other.lower() == name.lower()]
    return f" Did you mean '{found[0]}'?" if found else ""
