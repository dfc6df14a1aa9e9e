"""Compare published weights, loaded here, with what other code computed from them.

    python -m vedit.testing.golden FOLDER [FOLDER ...] [--tolerance 1e-4]

A folder holds recorded cases (`vedit.testing.cases`) and the weights: those of a denoiser
(``transformer/``) or of an encoder of pictures and words (``mllm_encoder.safetensors``). One line
per case gives the largest absolute difference; the exit status is 1 if one exceeds the tolerance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vedit.errors import DataError, VeditError
from vedit.testing.cases import Case, read_cases

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Difference:
    """How far a result is from the recorded one.

    Attributes:
        case: in words.
        largest: absolute difference.
    """

    case: str
    largest: float


def differences(folder: str | Path) -> Iterator[Difference]:
    """Compare every case of a folder.

    Args:
        folder: with cases and weights.

    Yields:
        One difference per recorded result, in order.

    Raises:
        DataError: if the folder is none that is known.
        WeightsError: if the weights do not fit.
    """
    folder = Path(folder)
    cases = read_cases(folder)
    if (folder / "transformer" / "config.json").is_file():
        yield from _of_denoiser(folder, cases)
    elif (folder / "mllm_encoder.safetensors").is_file():
        yield from _of_encoder(folder, cases)
    else:
        raise DataError(
            f"{folder}: holds cases but no weights; expected transformer/ or "
            "mllm_encoder.safetensors."
        )


def _of_denoiser(folder: Path, cases: Sequence[Case]) -> Iterator[Difference]:
    from vedit.testing.denoiser import denoiser, velocity_of

    built = {}
    for case in cases:
        first = bool(case.options.get("ref_first", False))
        if first not in built:
            built[first] = denoiser(folder, reference_first=first)
        found = velocity_of(built[first], case)
        yield Difference(_describe(case), largest_difference(found, case.tensors["velocity"]))


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference of two tensors, NaN if one holds a NaN.

    Args:
        found: of any shape.
        expected: of the same shape.

    Returns:
        The difference, computed in float32.

    Raises:
        DataError: if the shapes differ.
    """
    if found.shape != expected.shape:
        raise DataError(
            f"computed {tuple(found.shape)}, but {tuple(expected.shape)} is what was recorded."
        )
    return float((found.float() - expected.float()).abs().max())


def _of_encoder(folder: Path, cases: Sequence[Case]) -> Iterator[Difference]:
    from vedit.context.reference_cases import encoder_of, results_of

    encoder = encoder_of(folder)
    for case in cases:
        words = f"{case.name}: {case.options.get('mode', 'encoder')}"
        for name, found in results_of(encoder, case.options, case.tensors).items():
            if name in case.tensors:
                difference = largest_difference(found, case.tensors[name])
                yield Difference(f"{words}, {name}", difference)


def _describe(case: Case) -> str:
    """A case in words, such as "1: noisy 1x16x3x8x12, source, 1 reference"."""
    size = "x".join(map(str, case.tensors["noisy"].shape))
    words = [f"noisy {size}"] + (["source"] if "source" in case.tensors else [])
    if count := sum(name.startswith("reference.") for name in case.tensors):
        first = " first" if case.options.get("ref_first") else ""
        words.append(f"{count} reference{'s' if count > 1 else ''}{first}")
    return f"{case.name}: {', '.join(words)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what follows the module's name; None takes it from the process.

    Returns:
        0 if every case is within the tolerance, 1 otherwise, 2 for wrong usage or a wrong folder.
    """
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m vedit.testing.golden", description=summary)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="default: %(default)g")
    given = parser.parse_args(arguments)
    largest: list[float] = []
    try:
        for folder in given.folders:
            for found in differences(folder):
                within = found.largest <= given.tolerance  # not so for a NaN
                beyond = "" if within else "  EXCEEDS THE TOLERANCE"
                print(f"{folder}  {found.case}  {found.largest:.3g}{beyond}", flush=True)
                largest.append(found.largest)
    except VeditError as error:
        print(f"vedit: {error}", file=sys.stderr)
        return 2
    good = sum(value <= given.tolerance for value in largest)
    print(f"{good} of {len(largest)} within {given.tolerance:g}")
    return 0 if good == len(largest) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
