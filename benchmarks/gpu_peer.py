"""The same training step, written plainly with diffusers and PEFT.

What a researcher writes in an afternoon: `WanTransformer3DModel` in bfloat16, adapters by
`add_adapter` in float32 under autocast, diffusers' gradient checkpointing, AdamW. The source is
concatenated along time as clean latent frames, with a noise level for each token, which is how that
model takes a clean condition.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from gpu_step import GIB, StepRow, release
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional as F

TINY = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 64}


@dataclass(frozen=True)
class Peer:
    """A transformer and what it reads.

    Attributes:
        workload: name of the workload of ours that it stands beside.
        sizes: of the transformer.
        grid: latent frames, rows and columns of the target.
        rank: of the adapters.
        context: text tokens.
        source: whether the source is in the sequence.
    """

    workload: str
    sizes: dict[str, Any]
    grid: tuple[int, int, int]
    rank: int = 256
    context: int = 512
    source: bool = True


class PeerStep:
    """The model, its optimiser, and one step.

    Args:
        peer: what to build.
        device: where.
        checkpointing: whether blocks are computed again in the backward pass.
    """

    def __init__(self, peer: Peer, device: str, checkpointing: bool = True) -> None:
        self.peer, self.device = peer, device
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(device):
            self.model = WanTransformer3DModel(**peer.sizes)
        torch.set_default_dtype(torch.float32)
        self.model.requires_grad_(False)
        targets = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
        config = LoraConfig(r=peer.rank, lora_alpha=peer.rank, target_modules=targets)
        self.model.add_adapter(config)
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        for weight in self.weights:
            weight.data = weight.data.float()
        if checkpointing:
            self.model.enable_gradient_checkpointing()
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-4)
        channels = peer.sizes["in_channels"]
        self.clean, self.source = (
            torch.randn(1, channels, *peer.grid, device=device) for _ in range(2)
        )
        self.text = torch.randn(1, peer.context, 4096, device=device, dtype=torch.bfloat16)

    def __call__(self) -> Tensor:
        """Noise, forward, loss, backward, clipping, optimiser."""
        sigma, noise = torch.rand(1, device=self.device), torch.randn_like(self.clean)
        noisy = (1 - sigma) * self.clean + sigma * noise
        times = self._times(1000 * sigma)
        if self.peer.source:
            noisy = torch.cat([self.source, noisy], dim=2)
        with torch.autocast(self.device, torch.bfloat16):
            out = self.model(noisy.bfloat16(), times, self.text, return_dict=False)[0]
        predicted = out[:, :, -self.peer.grid[0] :]
        loss = F.mse_loss(predicted.float(), noise - self.clean)
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def _times(self, time_: Tensor) -> Tensor:
        """(1, N): the time of each token of the target, zero for those of the source."""
        frames, rows, columns = self.peer.grid
        tokens = frames * (rows // 2) * (columns // 2)
        noisy = time_.expand(1, tokens)
        return torch.cat([torch.zeros_like(noisy), noisy], 1) if self.peer.source else noisy


def peer_row(peer: Peer, steps: int, warm_up: int, device: str) -> StepRow:
    """Time the peer's step.

    Args:
        peer: what to build.
        steps: timed.
        warm_up: not timed.
        device: "cuda" or "cpu".

    Returns:
        The median step, or why there is none.
    """
    name = "diffusers + PEFT, blocks checkpointed"
    try:
        seconds, peak, loss = _timed(peer, steps, warm_up, device)
    except torch.cuda.OutOfMemoryError:
        release()
        return StepRow(peer.workload, name, failure="out of memory")
    release()
    return StepRow(peer.workload, name, seconds=seconds, peak_gib=peak, loss=loss)


def _timed(peer: Peer, steps: int, warm_up: int, device: str) -> tuple[float, float | None, float]:
    step, times, loss = PeerStep(peer, device), [], torch.zeros(())
    cuda = device == "cuda"
    for number in range(steps + warm_up):
        if number == warm_up and cuda:
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        loss = step()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / GIB if cuda else None
    return statistics.median(times[warm_up:]), peak, float(loss)
