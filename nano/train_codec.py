"""Train the nano codec: a small AutoencoderKLWan, on the training frames of the demo clips.

    python nano/train_codec.py --clips data/demo --output nano/vae

Only frames of the training split are seen; the reconstruction of held-out frames is printed as it
goes. Colours and shapes are varied at random, because edited clips look unlike filmed ones, but no
edit of the engine is applied.
"""

from __future__ import annotations

import argparse
import math
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.nn import functional as F

from vedit.data.splits import clip_spans
from vedit.engine.masks import sample_mask
from vedit.video import iter_frames

HEIGHT, WIDTH = 64, 112
SCALES = (1.0, 1.32)  # of the frames that crops are cut from
CHANNELS = 48
CONFIG = {
    "base_dim": 24,
    "decoder_base_dim": 32,
    "z_dim": CHANNELS,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "attn_scales": [],
    "temperal_downsample": [True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 8,
    "latents_mean": [0.0] * CHANNELS,
    "latents_std": [1.0] * CHANNELS,
}


def read_split(clips: Path, split: str) -> list[list[Tensor]]:
    """Frames (F, H, W, 3) of every clip of a split, at each of the scales."""
    found = []
    for path, span in clip_spans(clips, split):
        found.append([])
        for scale in SCALES:
            size = (round(HEIGHT * scale), round(WIDTH * scale))
            frames = iter_frames(path, span.start, span.stop, size=size)
            found[-1].append(torch.stack(list(frames)))
        print(f"{split}: {path.name}, {len(found[-1][0])} frames", flush=True)
    return found


def to_signed(frames: Tensor) -> Tensor:
    """Frames (F, H, W, 3) uint8 to (3, F, H, W) in [-1, 1]."""
    return frames.permute(3, 0, 1, 2).float() / 127.5 - 1


class Crops:
    """Random crops of training frames, varied in colour, overlaid with shapes."""

    def __init__(self, clips: list[list[Tensor]], seed: int) -> None:
        self.clips = clips
        self.generator = torch.Generator().manual_seed(seed)
        # The square root keeps the one long film from drowning the short clips.
        self.weights = torch.tensor([float(len(clip[0])) for clip in clips]).sqrt()

    def draw(self, low: float = 0.0, high: float = 1.0) -> float:
        """A uniform number."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def integer(self, below: int) -> int:
        """A uniform integer in [0, below)."""
        return int(torch.randint(0, below, (), generator=self.generator))

    def clip(self, frames: int) -> Tensor:
        """One clip (3, F, HEIGHT, WIDTH) in [-1, 1]."""
        if self.draw() < 0.08:  # masks are encoded too
            return self._mask(frames).expand(3, -1, -1, -1) * 2 - 1
        chosen = int(torch.multinomial(self.weights, 1, generator=self.generator))
        source = self.clips[chosen][self.integer(len(SCALES))]
        stride = 1 + self.integer(2)
        start = self.integer(len(source) - frames * stride)
        top = self.integer(source.shape[1] - HEIGHT + 1)
        left = self.integer(source.shape[2] - WIDTH + 1)
        window = source[start : start + frames * stride : stride]
        x = to_signed(window[:, top : top + HEIGHT, left : left + WIDTH])
        return self._shapes(self._colours(self._flips(x)))

    def _mask(self, frames: int) -> Tensor:
        return sample_mask(self.generator, frames, HEIGHT, WIDTH).transpose(0, 1)

    def _flips(self, x: Tensor) -> Tensor:
        x = x.flip(3) if self.draw() < 0.5 else x
        return x.flip(2) if self.draw() < 0.1 else x

    def _colours(self, x: Tensor) -> Tensor:
        if self.draw() > 0.4:
            return x
        mix = torch.randn(3, 3, generator=self.generator)
        mix = torch.lerp(torch.eye(3), mix / mix.abs().sum(1, keepdim=True), self.draw())
        offset = 0.2 * torch.randn(3, generator=self.generator)[:, None, None, None]
        return (torch.einsum("ij,jthw->ithw", mix, x) * self.draw(0.7, 1.3) + offset).clamp(-1, 1)

    def _shapes(self, x: Tensor) -> Tensor:
        if self.draw() > 0.15:
            return x
        colour = 2 * torch.rand(3, generator=self.generator)[:, None, None, None] - 1
        return torch.where(self._mask(x.shape[1]) > 0.5, colour, x)


def batches(crops: Crops) -> Iterator[Tensor]:
    """Endless batches (B, 3, F, HEIGHT, WIDTH): short clips, every eighth time longer ones."""
    ready: queue.Queue[Tensor] = queue.Queue(maxsize=6)

    def fill() -> None:
        torch.set_num_threads(1)
        step = 0
        while True:
            count, frames = (3, 9) if step % 8 == 7 else (4, 5)
            ready.put(torch.stack([crops.clip(frames) for _ in range(count)]))
            step += 1

    threading.Thread(target=fill, daemon=True).start()
    while True:
        yield ready.get()


class MatrixMuon:
    """Muon (Jordan et al. 2024) for convolutions, as matrices, and AdamW for everything else."""

    def __init__(self, module: nn.Module, lr: float) -> None:
        self.kernels = [p for p in module.parameters() if p.ndim >= 4]
        self.matrices = [p.detach().reshape(len(p), -1).clone() for p in self.kernels]
        others = [p for p in module.parameters() if p.ndim < 4]
        self.optimizers = (
            torch.optim.Muon(
                self.matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=0.0),
        )

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Apply the gradients that are there."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(matrix.shape)
        for optimizer in self.optimizers:
            optimizer.step()
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            kernel.copy_(matrix.view(kernel.shape))


def encode(codec: AutoencoderKLWan, video: Tensor) -> Tensor:
    """The mode of the posterior, not normalised."""
    return codec._encode(video)[:, :CHANNELS].float()


def decode(codec: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Latents, not normalised, to video."""
    return codec._decode(latents, return_dict=False)[0].float()


@torch.no_grad()
def reconstruction(codec: AutoencoderKLWan, clips: list[list[Tensor]]) -> float:
    """Mean PSNR (dB) over 12 clips of 9 frames spread over each held-out video."""
    codec.eval()
    found = []
    for scales in clips:
        frames = scales[0]
        for start in range(0, len(frames) - 9, max(9, len(frames) // 12)):
            x = to_signed(frames[start : start + 9])[None]
            y = decode(codec, encode(codec, x)).clamp(-1, 1)
            found.append(10 * math.log10(4 / float(F.mse_loss(y, x))))
    codec.train()
    return sum(found) / len(found)


@torch.no_grad()
def normalise(codec: AutoencoderKLWan, crops: Crops, count: int = 200) -> None:
    """Write mean and standard deviation of each latent channel into the config."""
    codec.eval()
    z = torch.cat([encode(codec, crops.clip(9)[None]) for _ in range(count)])
    mean, std = z.mean((0, 2, 3, 4)), z.std((0, 2, 3, 4))
    codec.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


def train(arguments: argparse.Namespace) -> None:
    """Train, print the reconstruction of held-out clips, save in diffusers' layout."""
    torch.manual_seed(arguments.seed)
    crops = Crops(read_split(arguments.clips, "train"), arguments.seed)
    held_out = read_split(arguments.clips, "test")
    codec = AutoencoderKLWan(**CONFIG)
    optimizer = MatrixMuon(codec, arguments.lr)
    began, running = time.monotonic(), None
    for step, x in zip(range(1, arguments.steps + 1), batches(crops), strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            z = encode(codec, x)
            y = decode(codec, z + 0.02 * torch.randn_like(z))
        mse = F.mse_loss(y, x)
        codec.zero_grad()
        # The small penalty keeps latents near unit scale; nothing is sampled from them.
        (mse + 0.02 * F.l1_loss(y, x) + 5e-5 * z.square().mean()).backward()
        nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        left = 1 - step / arguments.steps
        optimizer.step(arguments.lr * min(1.0, step / 100, left / 0.75 + 0.003))
        running = mse.item() if running is None else 0.95 * running + 0.05 * mse.item()
        if step % 100 == 0:
            spent = time.monotonic() - began
            psnr = 10 * math.log10(4 / running)
            print(f"step {step}/{arguments.steps}  {psnr:.2f} dB  {spent:.0f} s", flush=True)
        if step % 500 == 0:
            print(f"  held out: {reconstruction(codec, held_out):.2f} dB", flush=True)
    normalise(codec, crops)
    codec.half().save_pretrained(arguments.output)
    print(f"held out: {reconstruction(codec.float(), held_out):.2f} dB, saved {arguments.output}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, default=Path("data/demo"))
    parser.add_argument("--output", type=Path, default=Path("nano/vae"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
