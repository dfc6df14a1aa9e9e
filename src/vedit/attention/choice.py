"""Which attention kernel runs, and why."""

from functools import cache
from importlib.util import find_spec
from typing import Literal, NamedTuple, get_args

import torch

from vedit.attention.flex import flex
from vedit.attention.kernel import Dense, Kernel, Run, at_once, block_by_block, unless_padded
from vedit.attention.runs import Runs
from vedit.attention.sdpa import cudnn, sdpa
from vedit.errors import ConfigError, nearest

KernelName = Literal["auto", "sdpa", "cudnn", "flash", "flash3", "flash4", "xformers", "flex"]

_HALF = (torch.float16, torch.bfloat16)


class Order(NamedTuple):
    """What "auto" prefers, best first.

    Attributes:
        since: compute capability from which the order holds.
        whole: kernels for queries that all have the same keys: most self-attention, and
            cross-attention. What has padding goes to the first of them that is PyTorch's own.
        runs: kernels that take runs of different lengths at once; where none is installed, `whole`
            attends to one after the other.
    """

    since: tuple[int, int]
    whole: tuple[str, ...]
    runs: tuple[str, ...]


ORDERS = (
    Order((9, 0), ("flash4", "cudnn", "sdpa"), ("flash4", "flash3", "flash", "xformers")),
    Order((0, 0), ("sdpa",), ("flash", "xformers")),
)
"""By compute capability, newest first: the one place where the preference is stated.

On an H200, 16,380 and 36,960 tokens, 24 heads of 128, TFLOP/s forward and backward: FlashAttention
4 did 737 and 588, 680 and 630; cuDNN 9.19 627 and 512, 571 and 531; FlashAttention 2, as PyTorch
2.11 has it, 333 and 320, 356 and 317 (docs/performance.md)."""

_WHOLE: dict[str, Dense] = {"sdpa": sdpa, "cudnn": cudnn, "flex": flex}

_MODULES = {
    "flash": "flash_attn.flash_attn_interface",
    "flash3": "flash_attn_interface",
    "flash4": "flash_attn.cute",
    "xformers": "xformers",
}
_PACKAGES = {**_MODULES, "flash": "flash_attn", "flash4": "flash-attn-4"}
_CAPABLE = {"flash": (8, 0), "flash3": (9, 0), "flash4": (9, 0), "cudnn": (8, 0)}


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
    if device != "cuda" and name not in ("flex", "sdpa"):
        why = f"the only kernel for {device}" if name == "auto" else f"{name} runs on CUDA alone"
        return Kernel("sdpa", why, block_by_block(sdpa))
    if name == "auto":
        return _best(dtype, _capability())
    lack = _lack(name, dtype, _capability()) if device == "cuda" else None
    if lack:
        raise ConfigError(f"attention: '{name}' was asked for, but {lack}; 'auto' always works")
    return Kernel(name, "asked for", _run(name))


def _best(dtype: torch.dtype, capability: tuple[int, int]) -> Kernel:
    order = next(order for order in ORDERS if capability >= order.since)
    lacks = {name: _lack(name, dtype, capability) for name in (*order.whole, *order.runs)}
    whole = next(name for name in order.whole if lacks[name] is None)
    missing = [f"{name}: {lacks[name]}" for name in order.whole if lacks[name]]
    why = f"the first choice for compute capability {capability[0]}.{capability[1]}"
    if missing:
        why = f"the next choice ({'; '.join(missing)})"
    runs = next((name for name in order.runs if lacks[name] is None), None)
    masked = next(_WHOLE[name] for name in order.whole if name in _WHOLE and lacks[name] is None)
    dense = _dense(whole, masked)
    if runs is None:
        why += f"; segments one by one, as none of {', '.join(order.runs)} is installed"
        return Kernel(whole, why, block_by_block(dense))
    why += f"; {runs} takes segments of different lengths at once"
    name = whole if whole == runs else f"{whole} + {runs}"
    return Kernel(name, why, at_once(Runs(runs), dense))


def _run(name: str) -> Run:
    if name in _WHOLE:
        return block_by_block(_WHOLE[name])
    return at_once(Runs(name), _dense(name, sdpa))


def _dense(name: str, masked: Dense) -> Dense:
    """A kernel for one block; `masked` takes what has padding."""
    return _WHOLE[name] if name in _WHOLE else unless_padded(Runs(name).dense, masked)


def _capability() -> tuple[int, int]:
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)


def _lack(name: str, dtype: torch.dtype, capability: tuple[int, int]) -> str | None:
    """What keeps a kernel from running on CUDA, None if nothing does."""
    module = _MODULES.get(name)
    if module is not None and not _installed(module):
        return f"{_PACKAGES[name]} is not installed"
    if name == "xformers" and not _loads():
        return f"this build of xformers does not load beside PyTorch {torch.__version__}"
    needed = _CAPABLE.get(name, (0, 0))
    if capability < needed:
        return f"it needs compute capability {needed[0]}.{needed[1]}"
    if (module is not None or name == "cudnn") and dtype not in _HALF:
        return f"it takes float16 or bfloat16, not {dtype}"
    return None


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even its package
        return False


def _loads() -> bool:
    """Whether the kernels of xformers fit this PyTorch; its Python part imports either way."""
    from xformers import _cpp_lib

    return _cpp_lib._cpp_library_load_exception is None
