"""Video files in and out: uint8 frames, exact frame counts, one-line errors."""

from vedit.video.decode import NamedBytes, Source
from vedit.video.read import (
    Video,
    VideoInfo,
    iter_frames,
    iter_luma,
    probe,
    read_video,
)
from vedit.video.windows import WindowReader
from vedit.video.write import encode_video, write_video

__all__ = [
    "NamedBytes",
    "Source",
    "Video",
    "VideoInfo",
    "WindowReader",
    "encode_video",
    "iter_frames",
    "iter_luma",
    "probe",
    "read_video",
    "write_video",
]
