"""`Editor`: a trained checkpoint that edits videos of any size, rate and length."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from vedit.batch import EditBatch
from vedit.data.transforms import to_pixels
from vedit.editor.checkpoint import ClipSize, Trained, Weights, load_trained
from vedit.editor.conditions import References, references, regions, signed
from vedit.editor.edited import EditedVideo
from vedit.editor.inputs import Clip, Pixels, open_clip
from vedit.editor.request import Request
from vedit.editor.resize import resized, working_size
from vedit.editor.windows import count_windows, cut, join
from vedit.errors import ConfigError, DataError
from vedit.video import write_video

Progress = Callable[[int, int], None]
"""Told (sampling steps done, steps in all)."""


class Editor:
    """A trained system, and the size of clip that it is used to.

    A video is scaled to about the trained area, cut into windows of the trained length, edited
    window by window, put together again and scaled back. Windows overlap by a quarter.

    Args:
        trained: From `vedit.editor.checkpoint.load_trained`.
    """

    def __init__(self, trained: Trained) -> None:
        self.system = trained.system
        self.path, self.size = trained.path, trained.size
        self._transform = trained.reference
        self._bfloat16 = trained.precision.startswith("bf16")

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        weights: Weights | None = None,
    ) -> Editor:
        """Load a checkpoint.

        Args:
            path: A run's folder, its ``checkpoints`` folder, a ``.ckpt`` file, or the folder of a
                published model.
            device: Where to edit; None takes a GPU if there is one.
            weights: See `vedit.editor.checkpoint.load_trained`.

        Returns:
            An editor.

        Raises:
            WeightsError: There is no checkpoint, or it does not fit its own configuration.
            ConfigError: Its configuration names what this installation does not have.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_trained(path, device, weights))

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions that the model was trained with."""
        return tuple(self.system.make_injections)

    def edit(
        self,
        video: Pixels,
        instruction: str,
        mask: Pixels | None = None,
        reference: Pixels | Sequence[Pixels] | None = None,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        size: tuple[int, int, int] | None = None,
        fps: Fraction | float | None = None,
        progress: Progress | None = None,
    ) -> EditedVideo:
        """Edit a video; the same seed gives the same bytes.

        Args:
            video: A file, or uint8 frames (F, H, W, 3).
            instruction: See `Request`.
            mask: See `Request`.
            reference: See `Request`.
            seed: See `Request`.
            steps: See `Request`.
            guidance: See `Request`.
            size: See `Request`.
            fps: Rate of frames given as an array; a file has its own.
            progress: Told the sampling steps done and those in all.

        Returns:
            The edited video, held in memory; `edit_file` streams instead.

        Raises:
            ConfigError: The model does not know one of the conditions.
            DataError: A file cannot be read, or the size does not suit the codec.
        """
        request = Request(instruction, mask, reference, seed, steps, guidance, size)
        clip = open_clip(video, fps)
        frames = list(self.stream(clip, request, progress))
        return EditedVideo(torch.stack(frames), clip.fps, clip.times, clip.path)

    def edit_file(
        self,
        video: str | Path,
        output: str | Path,
        request: Request,
        *,
        side_by_side: bool = False,
        progress: Progress | None = None,
    ) -> Clip:
        """Edit a file of any length to another one, holding one window at a time.

        The output appears when it is complete, with the sound of the video.

        Args:
            video: File to read.
            output: File to write.
            request: What to do.
            side_by_side: Write source and edit next to each other.
            progress: Told the sampling steps done and those in all.

        Returns:
            The video that was read.

        Raises:
            ConfigError: The model does not know one of the conditions.
            DataError: A file cannot be read or written, or the size does not suit the codec.
        """
        clip = open_clip(video)
        frames = self.stream(clip, request, progress)
        if side_by_side:
            pairs = zip(clip.frames(), frames, strict=True)
            frames = (torch.cat(pair, dim=1) for pair in pairs)
        write_video(output, frames, clip.fps, audio_from=clip.path, times=clip.times)
        return clip

    def stream(
        self, clip: Clip, request: Request, progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """Edit a clip frame by frame.

        The request is checked at once, the work is done as frames are asked for.

        Args:
            clip: From `vedit.editor.inputs.open_clip`.
            request: What to do.
            progress: Told the sampling steps done and those in all.

        Returns:
            An iterator over uint8 (H, W, 3), as many as the clip has.

        Raises:
            ConfigError: The model does not know one of the conditions.
            DataError: The size does not suit the codec.
        """
        self._check(request.conditions)
        size = self.working_size(clip, request.size)
        return self._stream(clip, request, size, progress)

    def working_size(self, clip: Clip, size: tuple[int, int, int] | None = None) -> ClipSize:
        """Frames and pixels at which windows of a clip are edited.

        Args:
            clip: The video.
            size: Frames, height and width to use in place of the trained ones, as they are.

        Returns:
            A size that the codec takes.

        Raises:
            ConfigError: Neither the checkpoint nor ``size`` says.
            DataError: ``size`` does not suit the codec or the backbone.
        """
        codec, model = self.system.codec, self.system.model
        assert codec is not None
        assert model is not None
        if size is None and self.size is None:
            raise ConfigError(
                f"size: {self.path} does not say the size of its training clips; "
                "give frames, height and width."
            )
        _, *patch = model.backbone.spec.patch
        multiple = (codec.spatial_factor * patch[0], codec.spatial_factor * patch[1])
        if size is not None:
            chosen = ClipSize(*size)
        else:
            assert self.size is not None
            trained = (self.size.height, self.size.width)
            pixels = working_size(clip.height, clip.width, trained, multiple)
            chosen = ClipSize(self.size.frames, *pixels)
        codec.check_size(chosen.frames, chosen.height, chosen.width)
        if chosen.height % multiple[0] or chosen.width % multiple[1]:
            fits = working_size(
                chosen.height, chosen.width, (chosen.height, chosen.width), multiple
            )
            raise DataError(
                f"size: {chosen.height}x{chosen.width} (height x width) cannot be cut into "
                f"patches, expected multiples of {multiple[0]} and {multiple[1]}; "
                f"nearest: {fits[0]}x{fits[1]}."
            )
        return chosen

    # --- one clip -----------------------------------------------------------------------------

    def _check(self, given: Sequence[str]) -> None:
        for name in given:
            if name not in self.conditions:
                raise ConfigError(
                    f"{name}: {self.path} was not trained with this condition; "
                    f"it knows {', '.join(self.conditions) or 'none'}."
                )

    def _stream(
        self, clip: Clip, request: Request, size: ClipSize, progress: Progress | None
    ) -> Iterator[Tensor]:
        overlap = size.frames // 4
        total = count_windows(clip.count, size.frames, overlap)
        small = (resized(signed(f), size.height, size.width) for f in clip.frames())
        sources = cut(small, size.frames, overlap)
        inside = cut(regions(clip, request.mask, size), size.frames, overlap)
        reference = references(request.reference, size, self._transform, self.system.context)

        def edited() -> Iterator[tuple[Tensor, int]]:
            for number, ((source, real), (region, _)) in enumerate(
                zip(sources, inside, strict=True)
            ):
                videos = {"source": source.transpose(0, 1)[None]}
                if request.mask is not None:
                    videos["mask"] = region.transpose(0, 1)[None]
                told = _in_all(progress, number, total) if progress is not None else None
                yield self._window(videos, reference, request, number, told), real

        for frame in join(edited(), overlap):
            yield to_pixels(resized(frame, clip.height, clip.width)[:, None])[0]

    @torch.inference_mode()
    def _window(
        self,
        videos: dict[str, Tensor],
        reference: References,
        request: Request,
        number: int,
        progress: Progress | None,
    ) -> Tensor:
        """Edit one window; returns (F, 3, H, W) in [-1, 1] on the CPU."""
        system, codec = self.system, self.system.codec
        assert codec is not None
        batch = EditBatch(
            (request.instruction,),
            (f"window {number}",),
            videos,
            reference.encoded,
            reference.shown,
        )
        source = videos["source"]
        grid = codec.latent_grid(*source.shape[-3:])
        with torch.autocast(
            system.device.type,
            torch.bfloat16,
            enabled=self._bfloat16 and system.device.type == "cuda",
        ):
            conditions = system.conditions(batch.to(system.device))
            latents = system.sample(
                conditions,
                (1, codec.latent_channels, *grid),
                seed=[_window_seed(request.seed, number)],
                steps=request.steps,
                guidance=request.guidance,
                progress=progress,
            )
            decoded = codec.decode(latents)
        return decoded[0].transpose(0, 1).float().clamp(-1, 1).cpu()


def _window_seed(seed: int, number: int) -> int:
    """Noise of its own for every window, which a longer video does not change."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _in_all(progress: Progress, windows_done: int, windows: int) -> Progress:
    """Steps of one window to steps of all windows."""
    return lambda step, steps: progress(windows_done * steps + step, windows * steps)
