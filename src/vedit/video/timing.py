"""When the frames of a file are shown, told without decoding them."""

from __future__ import annotations

from fractions import Fraction

from vedit.video.decode import Source, opened, packets
from vedit.video.read import probe

# Containers round time stamps (Matroska to milliseconds): this much of a frame is still regular.
_REGULAR = Fraction(1, 10)


def frame_times(source: Source) -> tuple[Fraction, ...] | None:
    """Presentation time of each frame in seconds, the first being 0.

    Args:
        source: Path or binary stream.

    Returns:
        A time for each frame; None if the rate is constant, or if the file does not say.

    Raises:
        DataError: The file is missing, empty, holds no video, or is cut off.
    """
    info = probe(source)
    with opened(source) as (container, stream, name):
        stamps = [
            None if packet.pts is None else packet.pts * packet.time_base
            for packet in packets(container, stream, name)
            if packet.size and not packet.is_discard
        ]
    known = sorted(stamp for stamp in stamps if stamp is not None)
    if len(known) != info.frames:
        return None
    times = tuple(stamp - known[0] for stamp in known)
    tolerance = _REGULAR / info.fps
    if all(abs(time - i / info.fps) <= tolerance for i, time in enumerate(times)):
        return None
    return times
