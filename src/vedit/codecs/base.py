"""What a codec is to the rest of the package."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from vedit.errors import DataError
from vedit.tokens import Grid


class Codec(nn.Module, ABC):
    """A frozen autoencoder of videos, causal in time: F = k * temporal_factor + 1 frames.

    It is always in evaluation mode, and nothing in it trains.

    Attributes:
        latent_channels: C.
        temporal_factor: frames per latent frame, after the first, which stands alone.
        spatial_factor: pixels per latent row and column.
        weights: folder or hub id of the weights, None for random ones.
    """

    latent_channels: int
    temporal_factor: int
    spatial_factor: int
    weights: str | None

    @abstractmethod
    def encode(self, video: Tensor) -> Tensor:
        """Encode a video, without noise.

        Args:
            video: (B, 3, F, H, W) in [-1, 1].

        Returns:
            Normalised latents (B, C, t, h, w), float32.

        Raises:
            DataError: if the codec cannot take this size.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, t, h, w) to a video (B, 3, F, H, W) in [-1, 1]."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of sizes and weights; equal digests mean equal latents."""

    @abstractmethod
    def load_weights(self) -> None:
        """Load the weights strictly; the module may be on the meta device.

        Raises:
            WeightsError: if a tensor is missing, unexpected or of another shape.
        """

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever the trainer asks for."""
        return super().train(False)

    def latent_grid(self, frames: int, height: int, width: int) -> Grid:
        """The latent grid of a video.

        Args:
            frames: F.
            height: H.
            width: W.

        Returns:
            (t, h, w).

        Raises:
            DataError: if the codec cannot take this size.
        """
        self.check_size(frames, height, width)
        factor = self.spatial_factor
        return (frames - 1) // self.temporal_factor + 1, height // factor, width // factor

    def check_size(self, frames: int, height: int, width: int) -> None:
        """Refuse a size that the codec cannot take.

        Args:
            frames: F.
            height: H.
            width: W.

        Raises:
            DataError: if F is not k * temporal_factor + 1, or H or W is not a multiple of
                `spatial_factor`; the message names the nearest size that is.
        """
        valid = self.nearest_size(frames, height, width)
        if valid != (frames, height, width):
            raise DataError(
                f"video is {frames} frames of {height}x{width} (height x width), expected "
                f"{self.temporal_factor}k+1 frames and multiples of {self.spatial_factor} pixels; "
                f"nearest: {valid[0]} frames of {valid[1]}x{valid[2]}."
            )

    def nearest_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """The valid size (F, H, W) nearest to this one; the smaller one of two."""

        def rounded(value: int, factor: int) -> int:
            return (2 * value + factor - 1) // (2 * factor) * factor

        return (
            max(0, rounded(frames - 1, self.temporal_factor)) + 1,
            max(self.spatial_factor, rounded(height, self.spatial_factor)),
            max(self.spatial_factor, rounded(width, self.spatial_factor)),
        )


def check_patches(grid: Sequence[int], patch: Sequence[int], factor: int, key: str) -> None:
    """Refuse latents that a backbone cannot cut into whole patches.

    Args:
        grid: (t, h, w) of the latents.
        patch: (time, rows, columns) of a patch.
        factor: pixels to a latent, along height and width.
        key: of a sample, for the message.

    Raises:
        DataError: with the multiples that height and width must be of.
    """
    if any(size % p for size, p in zip(grid, patch, strict=True)):
        height, width = (size * factor for size in grid[1:])
        raise DataError(
            f"{key}: {height}x{width} (height x width) makes latents of {tuple(grid)}, which "
            f"cannot be cut into patches of {tuple(patch)}; height must be a multiple of "
            f"{factor * patch[1]}, width of {factor * patch[2]}"
        )
