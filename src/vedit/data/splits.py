"""Which frames of which clip belong to which split; a folder of one's own may say so."""

from __future__ import annotations

import json
from pathlib import Path

from vedit.data.clips import DEMO_CLIPS, Span
from vedit.errors import DataError

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".mpeg", ".webm"})


def clip_spans(directory: Path, split: str) -> list[tuple[Path, Span]]:
    """List the parts of the clips in a folder that belong to a split.

    ``splits.json`` decides if the folder has one: ``{"FILE": {"SPLIT": [[START, STOP], ...]}}``
    with STOP null for the end. Otherwise demo clips keep to their table, and any other video
    is for training.

    Args:
        directory: A folder of videos.
        split: Such as "train", "val" or "test".

    Returns:
        Each video with a range of its frames, in the order of the file names.

    Raises:
        DataError: The folder has no video for this split, or its ``splits.json`` is wrong.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"{directory}: no such folder of clips; `vedit data fetch-demo` makes one.")
    stated = _stated_spans(directory / "splits.json")
    known = {clip.file: clip.spans for clip in DEMO_CLIPS} if stated is None else stated
    default = (Span("train"),) if stated is None else ()
    found = [
        (path, span)
        for path in sorted(directory.iterdir())
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")
        for span in known.get(path.name, default)
        if span.split == split
    ]
    if not found:
        raise DataError(
            f"{directory}: no clip for split '{split}'; put videos there, `vedit data fetch-demo`, "
            "or name the frames of each split in splits.json."
        )
    return found


def _stated_spans(path: Path) -> dict[str, tuple[Span, ...]] | None:
    if not path.is_file():
        return None
    try:
        return {
            file: tuple(
                Span(split, int(start), None if stop is None else int(stop))
                for split, spans in splits.items()
                for start, stop in spans
            )
            for file, splits in json.loads(path.read_text()).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path}: expected {{"FILE": {{"SPLIT": [[START, STOP], ...]}}}} ({error}).'
        ) from error
