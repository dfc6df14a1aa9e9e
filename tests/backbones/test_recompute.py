"""Every way to recompute gives the gradients of keeping everything, and saves what it says."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from tests.wan import randomised, tiny
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vedit.attention import Kernel
from vedit.backbones.blocks import BlockShape, CrossBlock, DualCrossBlock, UnifiedBlock
from vedit.backbones.layers import Surroundings
from vedit.backbones.recompute import (
    EveryKth,
    KeepAttention,
    OffloadInputs,
    Recompute,
    RecomputeBlocks,
    RecomputeFeedForward,
    is_attention_kernel,
)
from vedit.errors import ConfigError
from vedit.finetune.lora import LoRA
from vedit.tokens import Context, TokenSequence

TOKENS = 2 * 8 * 9  # enough keys for a CPU to take its fused kernel
STRATEGIES = {
    "blocks": RecomputeBlocks(),
    "feed_forward": RecomputeFeedForward(),
    "keep_attention": KeepAttention(),
    "every_second": EveryKth(2, KeepAttention()),
    "offload": OffloadInputs(),
}
BLOCKS = {
    "cross": CrossBlock,
    "unified": UnifiedBlock,
    "dual": partial(DualCrossBlock, stream="image"),
}

# The compiler warns of what it does itself.
COMPILES = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor",
    "ignore:`torch.jit.script_method` is deprecated",
    "ignore:.*should not be instantiated",
)


class Counting(TorchDispatchMode):
    """Counts the calls of operators whose name has all the given parts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.name()] += 1
        return func(*args, **(kwargs or {}))

    @property
    def kernels(self) -> int:
        """Forward passes of an attention kernel."""
        names = [n for n in self.calls if "attention" in n and "backward" not in n]
        return sum(self.calls[n] for n in names)

    @property
    def products(self) -> int:
        """Matrix products of linear layers."""
        return self.calls["aten::addmm"] + self.calls["aten::mm"]


def given(model: Any, dtype: torch.dtype) -> TokenSequence:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 2, 16, 18, generator=generator).to(dtype)
    sigma = torch.rand(1, generator=generator).to(dtype)
    text, image = torch.randn(2, 1, 5, 64, generator=generator).to(dtype).unbind(0)
    start = TokenSequence.of_target(x, sigma, model.embed)
    if not model.spec.cross_attention:
        return start
    return start.with_context(Context(text, streams={"image": Context(image)}))


def model_with(recompute: Recompute | None, block: Any, lora: bool = False) -> Any:
    torch.manual_seed(0)
    model = tiny(recompute=copy.deepcopy(recompute), block=block, num_layers=3).double()
    if lora:
        LoRA(rank=3, targets=["to_q", "to_k", "to_v", "to_out.0", "net.2"]).apply(model)
        randomised(model)
    return model


def gradients(model: Any) -> dict[str, Tensor]:
    model(given(model, torch.float64)).square().mean().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_gradients_are_those_of_keeping_everything(name: str, block: str, lora: bool) -> None:
    kept = gradients(model_with(None, BLOCKS[block], lora))
    again = gradients(model_with(STRATEGIES[name], BLOCKS[block], lora))
    assert kept.keys() == again.keys()
    for parameter, gradient in kept.items():
        torch.testing.assert_close(again[parameter], gradient, rtol=0, atol=1e-12)


def test_names_and_state_are_unchanged() -> None:
    plain, other = tiny(), tiny(recompute=KeepAttention())
    assert plain.state_dict().keys() == other.state_dict().keys()


def test_a_copy_of_a_model_runs_its_own_blocks() -> None:
    model = model_with(RecomputeBlocks(), CrossBlock)
    other = copy.deepcopy(model)
    gradients(other)
    assert all(p.grad is None for p in model.parameters())
    assert any(p.grad is not None for p in other.parameters())


def counted(recompute: Recompute | None, lora: bool = False) -> tuple[Counting, Counting]:
    model = model_with(recompute, CrossBlock, lora)
    out = model(given(model, torch.float64))
    forward, backward = Counting(), Counting()
    with forward:
        out = model(given(model, torch.float64))
    with backward:
        out.square().mean().backward()
    return forward, backward


@pytest.mark.parametrize(
    ("name", "kernels"),
    [("blocks", 3), ("feed_forward", 0), ("keep_attention", 0), ("every_second", 0)],
)
def test_kernels_that_run_again(name: str, kernels: int) -> None:
    """A CPU has no kernel for the five keys of the context, so only self-attention counts."""
    forward, backward = counted(STRATEGIES[name])
    assert forward.kernels == 3
    assert backward.kernels == kernels


def test_only_the_first_product_of_a_feed_forward_layer_runs_again() -> None:
    plain, again = (counted(r)[1].products for r in (None, RecomputeFeedForward()))
    assert again == plain + 3


def test_the_last_product_of_a_block_is_not_repeated_under_adapters() -> None:
    """Of ten linear layers in a block, nine run again: no gate of the feed-forward trains."""
    model = model_with(None, CrossBlock)
    plain, again = [], []
    for recompute, found in ((None, plain), (RecomputeBlocks(), again)):
        model = tiny(recompute=recompute, num_layers=3).double()
        LoRA(rank=2, targets=["attn1.to_q"]).apply(model)
        out = model(given(model, torch.float64))
        with Counting() as counting:
            out.square().mean().backward()
        found.append(counting.products)
    assert again[0] - plain[0] == 3 * (9 + 2)  # two of the adapter


class _Custom(torch.autograd.Function):
    """An attention kernel of somebody else's, with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, lse = torch.ops.vedit_test.flash_fwd(q, k, v)
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5 - lse).exp()
        to_v = torch.einsum("bhnm,bnhd->bmhd", weights, gradient)
        to_weights = torch.einsum("bnhd,bmhd->bhnm", gradient, v)
        delta = (gradient * out).sum(-1).transpose(1, 2)[..., None]
        to_scores = weights * (to_weights - delta) * q.shape[-1] ** -0.5
        to_q = torch.einsum("bhnm,bmhd->bnhd", to_scores, k)
        return to_q, torch.einsum("bhnm,bnhd->bmhd", to_scores, q), to_v


@torch.library.custom_op("vedit_test::flash_fwd", mutates_args=())
def flash_fwd(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention and the logarithms of its sums of exponentials."""
    RUNS.append(1)
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
    lse = scores.logsumexp(-1, keepdim=True)
    return torch.einsum("bhnm,bmhd->bnhd", (scores - lse).exp(), v), lse


RUNS: list[int] = []


def test_a_registered_kernel_of_another_package_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(blocks: list[Any]) -> Tensor:
        return torch.cat([_Custom.apply(b.q, b.k, b.v) for b in blocks], 1)

    kernel = Kernel("custom", "a test", run)
    kept = model_with(None, UnifiedBlock)
    again = model_with(KeepAttention(), UnifiedBlock)
    expected = gradients(kept)
    monkeypatch.setattr(type(again), "kernel", lambda *_: kernel)
    RUNS.clear()
    found = gradients(again)
    assert len(RUNS) == 3
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12)


@contextmanager
def saved_bytes() -> Iterator[dict[int, int]]:
    """Bytes of what autograd saves meanwhile, each storage once."""
    found: dict[int, int] = {}
    keep = []

    def pack(tensor: Tensor) -> Tensor:
        keep.append(tensor)
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def test_a_block_that_is_recomputed_saves_its_input_alone() -> None:
    model = model_with(RecomputeBlocks(), CrossBlock)
    sequence = given(model, torch.float64)
    with saved_bytes() as before:
        model.blocks = nn.ModuleList()
        model.recompute = []
        model(sequence)
    model = model_with(RecomputeBlocks(), CrossBlock)
    with saved_bytes() as after:
        model(sequence)
    more = sum(after.values()) - sum(before.values())
    assert more == 3 * TOKENS * 64 * 8


def test_a_kept_kernel_saves_its_result_and_its_sums() -> None:
    """Besides a block's input: N x D, and one number per head and token."""
    block = randomised(CrossBlock(BlockShape(64, 2, 96))).double()
    KeepAttention().apply(block)
    x = torch.randn(1, TOKENS, 64, dtype=torch.float64, requires_grad=True)
    with held_by_selection() as held:
        block(x, surroundings(tiny().double()))
    assert sum(tensor.nbytes for tensor in held()) == TOKENS * 64 * 8 + TOKENS * 2 * 8


@contextmanager
def held_by_selection() -> Iterator[Callable[[], list[Tensor]]]:
    """Tensors that selective checkpointing has come to hold meanwhile."""
    import torch.utils.checkpoint as module

    storages = []
    original = module._CachingTorchDispatchMode.__init__

    def init(self: Any, policy: Any, storage: Any, *more: Any) -> None:
        storages.append(storage)
        original(self, policy, storage, *more)

    def found() -> list[Tensor]:
        leaves = [leaf for s in storages for v in s.values() for leaf in tree_leaves(v)]
        values = [getattr(leaf, "val", leaf) for leaf in leaves]
        return [value for value in values if isinstance(value, Tensor)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._CachingTorchDispatchMode, "__init__", init)
        yield found


def surroundings(model: Any, sequence: TokenSequence | None = None) -> Surroundings:
    """What the blocks of a model read besides tokens."""
    seen: list[Surroundings] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    with torch.no_grad():
        model(given(model, torch.float64) if sequence is None else sequence)
    handle.remove()
    return seen[0]


def test_which_operators_are_attention_kernels() -> None:
    aten = torch.ops.aten
    for op in (
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._flash_attention_forward.default,
        aten._efficient_attention_forward.default,
        torch.ops.higher_order.flex_attention,
    ):
        assert is_attention_kernel(op), op
    for op in (
        aten._scaled_dot_product_flash_attention_backward.default,
        aten._flash_attention_backward.default,
        torch.ops.higher_order.flex_attention_backward,
        aten.addmm.default,
        aten._softmax.default,
    ):
        assert not is_attention_kernel(op), op


def compiled(recompute: Recompute) -> Any:
    model = model_with(recompute, CrossBlock)
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    return model


@COMPILES
@pytest.mark.parametrize(
    "recompute",
    [
        KeepAttention(),
        pytest.param(RecomputeFeedForward(), marks=pytest.mark.slow),
        pytest.param(OffloadInputs(), marks=pytest.mark.slow),
    ],
    ids=lambda recompute: type(recompute).__name__,
)
def test_a_compiled_block_has_the_same_gradients(recompute: Recompute) -> None:
    expected = gradients(model_with(None, CrossBlock))
    found = gradients(compiled(recompute))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12)


@COMPILES
def test_a_compiled_block_runs_no_kernel_again() -> None:
    model = compiled(KeepAttention())
    gradients(model)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        gradients(model)
    counts = {event.key: event.count for event in profile.key_averages()}
    # Self-attention once in each block, attention to the text once more.
    assert counts["aten::_scaled_dot_product_flash_attention_for_cpu"] == 3 + 2 * 3
    assert counts["aten::addmm"] == 2 * 3 * 10 + 4  # four outside the blocks


def test_a_feed_forward_strategy_needs_one() -> None:
    with pytest.raises(ConfigError, match="needs blocks with a layer 'ffn'"):
        RecomputeFeedForward().apply(nn.Linear(2, 2))


def test_every_kth_needs_a_k() -> None:
    with pytest.raises(ConfigError, match="k of 1 or more"):
        EveryKth(0)
