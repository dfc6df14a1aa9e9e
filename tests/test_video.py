"""Reading and writing video files, and what is said about broken ones."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from vedit.errors import DataError
from vedit.video import (
    NamedBytes,
    WindowReader,
    encode_video,
    iter_frames,
    probe,
    read_video,
    write_video,
)


def moving_square(frames: int, height: int = 48, width: int = 64) -> Tensor:
    """Frame i shows a bright square at column i and a grey level that tells i."""
    video = torch.full((frames, height, width, 3), 40, dtype=torch.uint8)
    for i in range(frames):
        video[i, 8:24, (2 * i) % (width - 16) : (2 * i) % (width - 16) + 16] = torch.tensor(
            [220, 120, 30], dtype=torch.uint8
        )
        video[i, 32:] = 20 + (i * 2) % 200
    return video


def psnr(a: Tensor, b: Tensor) -> float:
    return float(10 * torch.log10(255**2 / (a.float() - b.float()).square().mean()))


def with_sound(path: Path, frames: Tensor, codec: str = "aac", seconds: float = 2.0) -> None:
    """A clip with a 440 Hz tone."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=24)
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        audio = output.add_stream(codec, rate=44100)
        for pixels in frames:
            output.mux(video.encode(av.VideoFrame.from_ndarray(pixels.numpy(), "rgb24")))
        output.mux(video.encode(None))
        samples = np.sin(np.arange(int(44100 * seconds)) * 2 * np.pi * 440 / 44100)
        for i in range(0, len(samples) - 1023, 1024):
            block = (samples[i : i + 1024] * 8000).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 44100, i, Fraction(1, 44100)
            output.mux(audio.encode(frame))
        output.mux(audio.encode(None))


def sound_seconds(path: Path) -> float:
    with av.open(str(path)) as container:
        samples = sum(f.samples for f in container.decode(audio=0))
        return samples / container.streams.audio[0].sample_rate


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (2, 2)])
def test_written_video_has_exactly_the_frames_rate_and_size_given(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    frames, path = moving_square(11, 48, 64)[:, : size[0], : size[1]], tmp_path / "a.mp4"
    write_video(path, frames, Fraction(30000, 1001), crf=4)
    info, video = probe(path), read_video(path)
    assert (info.frames, info.height, info.width) == (11, *size)
    assert info.fps == video.fps == Fraction(30000, 1001)
    assert not info.has_audio
    assert tuple(video.frames.shape) == (11, *size, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_colours_survive_writing_and_reading(tmp_path: Path) -> None:
    frames = moving_square(5)
    frames[:, :8] = torch.tensor([0, 0, 255], dtype=torch.uint8)
    write_video(tmp_path / "a.mp4", frames, 24, crf=1, pixel_format="yuv444p")
    assert psnr(read_video(tmp_path / "a.mp4").frames, frames) > 42


def test_every_window_equals_the_same_frames_read_from_the_start(tmp_path: Path) -> None:
    """Seeking (with B-frames and several key frames) must not shift the frames."""
    path = tmp_path / "long.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"g": "30", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in moving_square(140):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.numpy(), "rgb24")))
        output.mux(stream.encode(None))
    whole = torch.stack(list(iter_frames(path)))
    assert len(whole) == 140
    for start, frames, stride in [(0, 9, 1), (47, 9, 2), (60, 5, 1), (95, 9, 3), (131, 9, 1)]:
        window = read_video(path, start, frames, stride)
        expected = whole[start : start + (frames - 1) * stride + 1 : stride]
        assert torch.equal(window.frames, expected), (start, frames, stride)
        assert window.fps == Fraction(24, stride)


def test_a_window_reader_gives_what_reading_gives(tmp_path: Path) -> None:
    """In any order, overlapping, far apart or behind."""
    path = tmp_path / "long.mp4"
    write_video(path, moving_square(250), 24)
    reader = WindowReader(path, (24, 32))
    assert reader.fps == 24
    for start, frames, stride in [
        (0, 5, 1), (3, 5, 1), (3, 9, 2), (30, 9, 1), (200, 5, 3), (100, 4, 1), (99, 4, 1),
    ]:  # fmt: skip
        expected = read_video(path, start, frames, stride, (24, 32)).frames
        assert torch.equal(reader.read(start, frames, stride), expected), (start, frames, stride)
    with pytest.raises(DataError, match=r"long\.mp4: 9 frames from frame 245 .* ends at 250"):
        reader.read(245, 9)


def test_size_scales_to_cover_and_crops_the_centre() -> None:
    frames = torch.zeros(3, 40, 120, 3, dtype=torch.uint8)
    frames[:, :, 40:80] = 200  # only the middle third stays in a square crop
    square = read_video(io.BytesIO(encode_video(frames, 24)), size=(20, 20)).frames
    assert square.shape == (3, 20, 20, 3)
    assert (square.float() - 200).abs().max() < 6


def test_rotation_of_phone_videos_is_applied(tmp_path: Path) -> None:
    """The display matrix says: turn a quarter clockwise to show it."""
    frames = torch.zeros(2, 32, 64, 3, dtype=torch.uint8)
    frames[:, :16, :32] = 250  # top left
    data = bytearray(encode_video(frames, 24))
    box = data.index(b"tkhd") + 4
    matrix = [0, 1, 0, -1, 0, 0, 32, 0, 1]
    ones = [65536, 65536, 1, 65536, 65536, 1, 65536, 65536, 1 << 30]
    ones[8] = 1 << 30
    packed = b"".join(
        (m * one).to_bytes(4, "big", signed=True) for m, one in zip(matrix, ones, strict=True)
    )
    data[box + 40 : box + 76] = packed
    path = tmp_path / "phone.mp4"
    path.write_bytes(data)
    info, video = probe(path), read_video(path)
    assert (info.height, info.width) == (64, 32)
    assert video.frames.shape == (2, 64, 32, 3)
    # Clockwise: top left goes to top right.
    assert video.frames[0, :24, 24:].float().mean() > 200
    assert video.frames[0, 40:].float().mean() < 20
    assert read_video(path, size=(16, 8)).frames.shape == (2, 16, 8, 3)


def test_variable_rate_keeps_the_time_of_each_frame(tmp_path: Path) -> None:
    times = tuple(Fraction(t, 100) for t in (0, 4, 10, 30, 31))
    write_video(tmp_path / "v.mp4", moving_square(5), 24, times=times)
    video = read_video(tmp_path / "v.mp4")
    assert [round(float(t), 3) for t in video.times] == [round(float(t), 3) for t in times]
    assert len(video.frames) == 5


def test_equal_frames_give_equal_bytes() -> None:
    assert encode_video(moving_square(4), 24) == encode_video(moving_square(4), 24)


def test_sound_is_copied_packet_by_packet(tmp_path: Path) -> None:
    with_sound(tmp_path / "in.mp4", moving_square(48))
    write_video(tmp_path / "out.mp4", moving_square(24), 24, audio_from=tmp_path / "in.mp4")
    assert probe(tmp_path / "out.mp4").has_audio
    assert probe(tmp_path / "out.mp4").frames == 24
    assert sound_seconds(tmp_path / "out.mp4") == pytest.approx(1.0, abs=0.06)
    with av.open(str(tmp_path / "in.mp4")) as a, av.open(str(tmp_path / "out.mp4")) as b:
        before = [bytes(p) for p in a.demux(audio=0) if p.size]
        after = [bytes(p) for p in b.demux(audio=0) if p.size]
    assert after == before[: len(after)]


def test_sound_the_container_refuses_is_encoded_as_aac(tmp_path: Path) -> None:
    with_sound(tmp_path / "in.mkv", moving_square(24), "pcm_s16le", seconds=1.0)
    write_video(tmp_path / "out.mp4", moving_square(24), 24, audio_from=tmp_path / "in.mkv")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    assert sound_seconds(tmp_path / "out.mp4") == pytest.approx(1.0, abs=0.1)


def test_a_silent_source_of_sound_gives_a_silent_video(tmp_path: Path) -> None:
    write_video(tmp_path / "in.mp4", moving_square(3), 24)
    write_video(tmp_path / "out.mp4", moving_square(3), 24, audio_from=tmp_path / "in.mp4")
    assert not probe(tmp_path / "out.mp4").has_audio


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("call", [probe, read_video])
def test_missing_empty_and_foreign_files_are_named(tmp_path: Path, call: object) -> None:
    assert callable(call)
    with pytest.raises(DataError) as error:
        call(tmp_path / "nowhere.mp4")
    assert "nowhere.mp4: no such video file" in one_line(error)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(DataError) as error:
        call(tmp_path / "empty.mp4")
    assert "empty.mp4: the file is empty" in one_line(error)
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    with pytest.raises(DataError) as error:
        call(tmp_path / "text.mp4")
    assert "text.mp4: not a readable video" in one_line(error)


def test_a_file_with_sound_alone_holds_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "tone.m4a"), "w") as output:
        audio = output.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
        frame.sample_rate = 44100
        output.mux(audio.encode(frame))
        output.mux(audio.encode(None))
    with pytest.raises(DataError, match=r"tone\.m4a: holds no video stream"):
        read_video(tmp_path / "tone.m4a")


def test_a_file_cut_off_before_its_index_is_not_readable(tmp_path: Path) -> None:
    data = encode_video(moving_square(20), 24)
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataError) as error:
        read_video(tmp_path / "cut.mp4")
    assert "cut.mp4" in one_line(error)
    assert "cut off" in one_line(error)


@pytest.mark.parametrize("frames", [None, 20])
def test_a_file_cut_off_after_its_index_is_an_error_too(tmp_path: Path, frames: int | None) -> None:
    """With the index first (fast start) FFmpeg opens the file and meets the end later."""
    with av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as output:
        stream = output.add_stream("libx264", rate=24, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        noise = torch.randint(0, 255, (20, 48, 64, 3), dtype=torch.uint8)
        for pixels in noise:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.numpy(), "rgb24")))
        output.mux(stream.encode(None))
    data = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError) as error:
        read_video(tmp_path / "cut.mp4", frames=frames)
    assert "cut.mp4: cut off after frame" in one_line(error)
    with pytest.raises(DataError, match="cut off after frame"):
        probe(tmp_path / "cut.mp4")


def test_more_frames_than_there_are_is_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_square(10), 24)
    with pytest.raises(DataError) as error:
        read_video(tmp_path / "a.mp4", start=4, frames=9)
    assert "a.mp4: 9 frames from frame 4 (stride 1) asked, 6 found" in one_line(error)
    with pytest.raises(DataError, match="0 found"):
        read_video(tmp_path / "a.mp4", start=100)


def test_errors_of_bytes_carry_the_name_of_the_member() -> None:
    with pytest.raises(DataError, match=r"shard\.tar:0001\.source\.mp4"):
        read_video(NamedBytes(b"nothing here", "shard.tar:0001.source.mp4"))


def test_nothing_to_write_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no frames"):
        write_video(tmp_path / "a.mp4", [], 24)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_can_be_no_file_is_named(tmp_path: Path) -> None:
    frames = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    for name, message in {
        "folder.mp4": "is a folder, expected the name of a file",
        "file/out.mp4": "its folder cannot be made",
        "out.none": "cannot write this video",
        "out.webm": "cannot write this video",
    }.items():
        with pytest.raises(DataError, match=message) as error:
            write_video(tmp_path / name, frames, 24)
        assert one_line(error).startswith(str(tmp_path / name))


def test_a_mistake_in_what_makes_the_frames_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    def frames() -> Iterator[torch.Tensor]:
        yield torch.zeros(16, 16, 3, dtype=torch.uint8)
        raise ValueError("of a model")

    with pytest.raises(ValueError, match="^of a model$"):
        write_video(tmp_path / "out.mp4", frames(), 24)
    assert list(tmp_path.iterdir()) == []


def test_small_frames_give_equal_bytes_whatever_memory_held_before(tmp_path: Path) -> None:
    """x264's macroblock tree would read memory that it never wrote."""
    code = (
        "import sys, torch; from vedit.video import write_video; "
        "g = torch.Generator().manual_seed(0); "
        "f = torch.nn.functional.interpolate(torch.rand(9, 3, 6, 8, generator=g), (32, 48), "
        "mode='bicubic').clamp(0, 1); "
        "write_video(sys.argv[1], (f * 255).byte().permute(0, 2, 3, 1).contiguous(), 24)"
    )
    written = []
    for fill in ("0", "85", "170"):
        path = tmp_path / f"{fill}.mp4"
        environment = {**os.environ, "MALLOC_PERTURB_": fill}
        subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True)
        written.append(path.read_bytes())
    assert written[0] == written[1] == written[2]
