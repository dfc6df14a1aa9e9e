"""One attention function, the kernels behind it, and the choice among them.

Every kernel takes and returns (B, N, heads, head width). Who sees whom is said segment by segment
(`AttentionLayout`), never by a dense (N, N) mask: queries of one segment attend to the concatenated
keys of the segments they see.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from vedit.errors import ConfigError, nearest
from vedit.tokens import AttentionLayout

KernelName = Literal["auto", "sdpa", "xformers", "flash", "flex"]

_HALF = (torch.float16, torch.bfloat16)

_SHORT = {torch.bfloat16: 512}
_SHORT_OTHERS = 128
"""Keys up to which a CPU is faster with the scores in memory (beyond, the fused kernel wins)."""


class Block(NamedTuple):
    """Queries that share their keys.

    Attributes:
        q: (B, N, heads, head width).
        k: (B, M, heads, head width).
        v: (B, M, heads, head width).
        valid: (B, M) bool, False where a key is padding; None if all count.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    valid: Tensor | None


@dataclass(frozen=True)
class Kernel:
    """An attention implementation and why it was chosen.

    Attributes:
        name: "sdpa", "xformers", "flash" or "flex".
        reason: one line for logs and `vedit describe`.
        run: attends within each block; the results follow one another along the tokens.
    """

    name: str
    reason: str
    run: Callable[[list[Block]], Tensor]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: AttentionLayout | None = None,
    valid: Tensor | None = None,
    kernel: Kernel | None = None,
) -> Tensor:
    """Softmax attention, dense or by segments.

    Args:
        q: (B, N, heads, head width).
        k: (B, M, heads, head width); M = N where `layout` restricts who sees whom.
        v: (B, M, heads, head width).
        layout: segments of the sequence and whom each sees; None or `sees=None` is dense.
        valid: (B, M) bool, False where a key is padding that nobody attends to.
        kernel: from `choose_kernel`; None is PyTorch's own.

    Returns:
        (B, N, heads, head width); zero for a query all of whose keys are padding.
    """
    run = (kernel or _SDPA).run
    blocks = list(_blocks(q, k, v, layout, valid))
    if valid is None:
        return run(blocks)
    return _silenced(run([_opened(block) for block in blocks]), blocks)


@cache
def choose_kernel(device: str, dtype: torch.dtype, name: KernelName = "auto") -> Kernel:
    """The kernel that runs a request on this machine, with the reason for the choice.

    A CPU always gets "sdpa", or "flex" if asked for, so that one configuration runs everywhere.

    Args:
        device: "cpu", "cuda", ...
        dtype: of queries, keys and values.
        name: what the configuration asks for.

    Returns:
        The kernel; its `reason` is for people.

    Raises:
        ConfigError: if the name is unknown, or the kernel is not installed or cannot take `dtype`.
    """
    if name not in get_args(KernelName):
        raise ConfigError(
            f"attention: '{name}' is none of {', '.join(get_args(KernelName))}."
            f"{nearest(name, get_args(KernelName))}"
        )
    if name == "flex":
        return Kernel("flex", "asked for", _run_flex)
    if device == "cpu" and name in ("xformers", "flash"):
        return Kernel("sdpa", f"{name} has no CPU kernels", _run_sdpa)
    if name == "sdpa" or device != "cuda":
        why = "asked for" if name == "sdpa" else f"the only kernel for {device}"
        return Kernel("sdpa", why, _run_sdpa)
    if name == "auto":
        return _best_on_cuda(dtype)
    lack = _lack(name, dtype)
    if lack:
        raise ConfigError(f"attention: '{name}' was asked for, but {lack}; 'auto' always works")
    return Kernel(name, "asked for", _VARLEN[name])


def _best_on_cuda(dtype: torch.dtype) -> Kernel:
    lacks = {name: _lack(name, dtype) for name in _VARLEN}
    for name, lack in lacks.items():
        if lack is None:
            return Kernel(name, "installed, and packs segments without masks", _VARLEN[name])
    return Kernel("sdpa", "; ".join(str(lack) for lack in lacks.values()), _run_sdpa)


def _lack(name: str, dtype: torch.dtype) -> str | None:
    """What keeps a CUDA kernel from running, None if nothing does."""
    package = {"xformers": "xformers", "flash": "flash_attn"}[name]
    if find_spec(package) is None:
        return f"{package} is not installed"
    if name == "flash" and dtype not in _HALF:
        return f"flash_attn takes float16 or bfloat16, not {dtype}"
    return None


def _blocks(
    q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout | None, valid: Tensor | None
) -> Iterator[Block]:
    """One block per query segment; a single one if attention is dense."""
    if layout is None or layout.sees is None:
        yield Block(q, k, v, valid)
        return
    keys, values = k.split(layout.lengths, 1), v.split(layout.lengths, 1)
    flags = None if valid is None else valid.split(layout.lengths, 1)
    for queries, seen in zip(q.split(layout.lengths, 1), layout.sees, strict=True):
        yield Block(
            queries,
            torch.cat([keys[i] for i in seen], 1),
            torch.cat([values[i] for i in seen], 1),
            None if flags is None else torch.cat([flags[i] for i in seen], 1),
        )


def _opened(block: Block) -> Block:
    """The block with its first key shown to the samples that would have none.

    A softmax over no key is not a number, and the kernels disagree on what to make of it.
    """
    assert block.valid is not None
    shown = block.valid.clone()
    shown[:, :1] |= ~block.valid.any(1, keepdim=True)
    return block._replace(valid=shown)


def _silenced(out: Tensor, blocks: list[Block]) -> Tensor:
    """The result (B, N, heads, head width), zero where `_opened` showed a key."""
    heard = [
        block.valid.any(1, keepdim=True).expand(-1, block.q.shape[1])
        for block in blocks
        if block.valid is not None
    ]
    return out * torch.cat(heard, 1)[..., None, None]


def _run_sdpa(blocks: list[Block]) -> Tensor:
    outs = []
    for q, k, v, valid in blocks:
        mask = None if valid is None else valid[:, None, None, :]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # heads first
        short = q.device.type == "cpu" and k.shape[2] <= _SHORT.get(q.dtype, _SHORT_OTHERS)
        attend = _attend_short if short else F.scaled_dot_product_attention
        outs.append(attend(q, k, v, attn_mask=mask).transpose(1, 2))
    return outs[0] if len(outs) == 1 else torch.cat(outs, 1)


def _attend_short(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> Tensor:
    """Attention with the scores in memory.

    Measured forward and backward on 2 threads against the fused kernel: in float32 0.9 of its
    time at 84 keys, the same at 168 (more in a forward pass alone) and twice from 256 on; in
    bfloat16, whose fused backward is slow, 0.25 at 168 keys, 0.5 at 512 and 1.5 at 1024.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v


def _run_flex(blocks: list[Block]) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    outs = []
    for q, k, v, valid in blocks:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # heads first
        out = flex_attention(q, k, v, None if valid is None else _hide(valid))
        outs.append(out.transpose(1, 2))
    return outs[0] if len(outs) == 1 else torch.cat(outs, 1)


def _hide(valid: Tensor) -> Callable[..., Tensor]:
    """A FlexAttention score modifier that keeps every query off padding."""

    def modify(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.where(valid[batch, key], score, -torch.inf)

    return modify


class Ragged(NamedTuple):
    """Blocks of all samples, packed one after the other without padding.

    Attributes:
        q: (total queries, heads, head width).
        k: (total keys, heads, head width).
        v: (total keys, heads, head width).
        q_lengths: queries per run.
        k_lengths: keys per run.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_lengths: list[int]
    k_lengths: list[int]


def pack_ragged(blocks: list[Block]) -> Ragged:
    """Pack blocks for kernels that take runs of different lengths; padding is left out."""
    ks, vs, q_lengths, k_lengths = [], [], [], []
    for q, k, v, valid in blocks:
        q_lengths += [q.shape[1]] * q.shape[0]
        if valid is None:
            k_lengths += [k.shape[1]] * k.shape[0]
            ks.append(k.flatten(0, 1))
            vs.append(v.flatten(0, 1))
        else:
            k_lengths += valid.sum(1).tolist()
            ks.append(k[valid])
            vs.append(v[valid])
    queries = torch.cat([block.q.flatten(0, 1) for block in blocks])
    return Ragged(queries, torch.cat(ks), torch.cat(vs), q_lengths, k_lengths)


def unpack_ragged(out: Tensor, blocks: list[Block]) -> Tensor:
    """Undo `pack_ragged` for the result: (total queries, heads, head width) to (B, N, ...)."""
    pieces = out.split([block.q.shape[0] * block.q.shape[1] for block in blocks])
    batch = blocks[0].q.shape[0]
    return torch.cat([piece.unflatten(0, (batch, -1)) for piece in pieces], 1)


def _is_dense(blocks: list[Block]) -> bool:
    return len(blocks) == 1 and blocks[0].valid is None


def _run_xformers(blocks: list[Block]) -> Tensor:
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    if _is_dense(blocks):
        return memory_efficient_attention(*blocks[0][:3])
    ragged = pack_ragged(blocks)
    bias = BlockDiagonalMask.from_seqlens(ragged.q_lengths, ragged.k_lengths)
    q, k, v = (x.unsqueeze(0) for x in ragged[:3])
    return unpack_ragged(memory_efficient_attention(q, k, v, attn_bias=bias)[0], blocks)


def _run_flash(blocks: list[Block]) -> Tensor:
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    if _is_dense(blocks):
        return flash_attn_func(*blocks[0][:3])
    ragged = pack_ragged(blocks)
    out = flash_attn_varlen_func(
        *ragged[:3],
        cu_seqlens_q=_starts(ragged.q_lengths, ragged.q.device),
        cu_seqlens_k=_starts(ragged.k_lengths, ragged.q.device),
        max_seqlen_q=max(ragged.q_lengths),
        max_seqlen_k=max(ragged.k_lengths),
    )
    return unpack_ragged(out, blocks)


def _starts(lengths: list[int], device: torch.device) -> Tensor:
    ends = torch.tensor([0, *lengths], device=device)
    return ends.cumsum(0).to(torch.int32)


_SDPA = Kernel("sdpa", "the default", _run_sdpa)
_VARLEN = {"xformers": _run_xformers, "flash": _run_flash}
