"""Blocks compiled in place: one graph each, one code for all, the same numbers."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from tests.tiny import built, make_batch
from tests.wan import tiny
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint

from vedit.attention import Kernel
from vedit.attention.kernel import at_once
from vedit.attention.runs import Runs
from vedit.backbones.blocks import CrossBlock, DualCrossBlock, UnifiedBlock
from vedit.backbones.recompute import (
    EveryKth,
    KeepAttention,
    RecomputeBlocks,
    RecomputeFeedForward,
)
from vedit.backbones.wan import WanDiT
from vedit.compilation import CompileBlocks
from vedit.errors import ConfigError
from vedit.finetune.lora import LoRA
from vedit.tokens import Context, Segment, TokenSequence, grid_positions

BLOCKS = {"cross": CrossBlock, "unified": UnifiedBlock, "dual": DualCrossBlock}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    with torch._functorch.config.patch(activation_memory_budget=1.0):
        yield
    torch._dynamo.reset()


def given(model, frames=2, words=5, samples=2, source=True, padded=True):
    """Target, source (with padding), and a context with a stream (padded too)."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    latents = draw(samples, 4, frames, 4, 6)
    start = TokenSequence.of_target(latents, torch.linspace(0.3, 0.9, samples), model.embed)
    shown = torch.ones(samples, words, dtype=torch.bool)
    shown[-1, 2:] = False
    flags = shown if padded else None
    stream = Context(draw(samples, 4, model.spec.width))
    context = Context(draw(samples, words, model.spec.width), flags, {"image": stream})
    sequence = start.with_context(context)
    if not source:
        return sequence
    tokens, grid = model.embed(draw(samples, 4, frames, 4, 6))
    seen = torch.ones(tokens.shape[:2], dtype=torch.bool)
    seen[0, -3:] = False
    clean = torch.zeros(samples)
    valid = seen if padded else None
    places = grid_positions(grid)
    return sequence.append(Segment("source", tokens, places, clean, grid, ("source",), valid))


def compiled(model, **arguments):
    """A compiled copy, and the graphs that it makes."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    twin = copy.deepcopy(model)
    if "backend" not in arguments:
        arguments["backend"] = count
    CompileBlocks(**arguments).apply(twin)
    return twin, graphs


def gradients(model, sequence):
    out = model(sequence)
    out.float().square().sum().backward()
    return [out, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("block", BLOCKS)
def test_one_graph_for_all_blocks_with_the_gradients_of_the_plain_model(block, adapted):
    """`fullgraph` fails on any break; the autograd graph is split ahead of time, as inductor's."""
    model = tiny(num_layers=3, block=BLOCKS[block]).double()
    if adapted:
        LoRA(rank=4).apply(model)
    twin, _ = compiled(model, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    results = [gradients(m, doubled(given(m.float()), m)) for m in (model, twin)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def doubled(sequence, model):
    """The sequence and the model in float64."""
    model.double()

    def context(c):
        streams = {name: context(stream) for name, stream in c.streams.items()}
        return replace(c, tokens=c.tokens.double(), streams=streams)

    segments = tuple(
        replace(s, tokens=s.tokens.detach().double(), sigma=s.sigma.double())
        for s in sequence.segments
    )
    return replace(sequence, segments=segments, context=context(sequence.context))


def test_half_precision_by_autocast_is_traced_and_close():
    model = tiny(num_layers=2)
    LoRA(rank=4).apply(model)
    twin, _ = compiled(model, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        results = [gradients(m, given(m)) for m in (model, twin)]
    for a, b in zip(*results, strict=True):
        assert (a.float() - b.float()).norm() <= 0.03 * a.float().norm()


def test_no_complex_numbers_inside():
    model = tiny(num_layers=1)
    twin, graphs = compiled(model)
    twin(given(model))
    values = [node.meta.get("example_value") for node in graphs[0].graph.nodes]
    dtypes = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    assert torch.float32 in dtypes
    assert not any(dtype.is_complex for dtype in dtypes)


def test_what_is_kept_for_the_backward_pass_is_in_half_precision():
    """Nothing as large as the tokens is kept in float32: neither norms nor rows of modulation."""
    kept = []

    def forward(graph, inputs):
        (outputs,) = graph.graph.output_node().args
        kept.extend(node.meta["val"] for node in outputs)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(
        fw_compiler=forward,
        bw_compiler=lambda graph, inputs: make_boxed_func(graph.forward),
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table,
    )
    model = tiny(num_layers=1).bfloat16()
    LoRA(rank=4).apply(model)
    twin, _ = compiled(model, backend=backend)
    sequence = given(tiny())
    segments = tuple(replace(s, tokens=s.tokens.detach().bfloat16()) for s in sequence.segments)
    context = Context(sequence.context.tokens.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        twin(replace(sequence, segments=segments, context=context)).sum().backward()
    tokens = segments[0].tokens.numel() * len(segments)
    wide = [x for x in kept if isinstance(x, torch.Tensor) and x.dtype == torch.float32]
    assert wide
    # The table of rotations is one for all blocks, and no wider than one head.
    assert all(x.numel() < tokens or x.shape[1:] == (1, 16) for x in wide), wide


def test_sizes_are_compiled_at_most_twice_and_never_again():
    """Once as they are, once as symbols; then any number of frames, words and samples goes."""
    model = tiny(num_layers=2)
    twin, graphs = compiled(model)
    for frames, words in [(2, 5), (3, 7)]:
        gradients(twin, given(twin, frames, words))
    assert len(graphs) == 2
    with torch._dynamo.config.patch(error_on_recompile=True):
        for frames, words in [(4, 9), (1, 3), (6, 40)]:
            sequence = given(twin, frames, words)
            torch.testing.assert_close(twin(sequence), model(given(model, frames, words)))


def test_another_number_of_segments_is_compiled_once():
    model = tiny(num_layers=2)
    twin, graphs = compiled(model)
    for _ in range(2):
        for source in (True, False):
            gradients(twin, given(twin, source=source))
    assert len(graphs) == 2


def test_checkpointing_around_a_compiled_block():
    model = tiny(num_layers=2)
    twin, _ = compiled(model, backend="aot_eager")
    for block in twin.blocks:
        inner = block._compiled_call_impl
        block._compiled_call_impl = lambda *a, inner=inner: checkpoint(
            inner, *a, use_reentrant=False
        )
    results = [gradients(m, given(m)) for m in (model, twin)]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_names_of_parameters_stay_and_a_copy_is_not_compiled():
    model = tiny()
    twin, _ = compiled(model)
    assert list(twin.state_dict()) == list(model.state_dict())
    stored = io.BytesIO()
    torch.save(twin.state_dict(), stored)


def test_a_system_compiles_after_adapters_are_in():
    system = built(compile=CompileBlocks(backend="eager"))
    assert system.model.backbone.compiled
    plain = built()
    batch = make_batch()
    latents, sigma = torch.randn(2, 4, 2, 4, 6), torch.rand(2)
    outs = [s(latents, sigma, s.conditions(batch)) for s in (system, plain)]
    torch.testing.assert_close(*outs)


def kept(model, sequence):
    """Bytes that a forward pass leaves for the backward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(sequence)
    return sum(found.values())


def test_a_share_of_activations_is_kept_and_gradients_stay():
    model = tiny(num_layers=2)
    LoRA(rank=4).apply(model)
    results, sizes = [], []
    for keep in (1.0, 0.5):
        torch._dynamo.reset()
        twin, _ = compiled(model, backend="aot_eager", keep=keep)
        results.append(gradients(twin, given(twin, frames=8)))
        sizes.append(kept(twin, given(twin, frames=8)))
    assert sizes[1] < 0.65 * sizes[0]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [RecomputeBlocks(), KeepAttention(), RecomputeFeedForward()])
@pytest.mark.parametrize("runs", [False, True], ids=["sdpa", "runs"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_generated_code_leaves_what_is_recomputed_to_the_backbone(
    recompute, runs, autocast, monkeypatch
):
    if runs:  # attention as one operator, as FlashAttention and xformers are called on a GPU
        kernel = Kernel(
            "reference", "asked for", at_once(Runs("reference"), Runs("reference").dense)
        )
        monkeypatch.setattr(WanDiT, "kernel", lambda *_: kernel)
    model = tiny(num_layers=2, recompute=recompute)
    LoRA(rank=4).apply(model)
    twin, _ = compiled(model, backend="inductor", keep=0.6)  # not read, see `share`
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        results = [gradients(m, given(m, padded=False)) for m in (model, twin)]
    bound = 4e-2 if autocast else 1e-4
    for a, b in zip(*results, strict=True):
        assert (a - b).norm() <= bound * b.norm() + 1e-6


@pytest.mark.slow
def test_self_attention_is_never_computed_again_to_keep_less():
    model = tiny(num_layers=2)
    LoRA(rank=4).apply(model)
    twin, _ = compiled(model, backend="inductor", keep=0.5)
    sequence = replace(given(twin, frames=8, padded=False), context=None)
    gradients(twin, sequence)  # compiles the backward pass
    loss = twin(sequence).square().sum()
    with torch.profiler.profile() as profiled:
        loss.backward()
    counts = {event.key: event.count for event in profiled.key_averages()}
    fused = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert counts[f"{fused}_backward"] == 2 * 2  # target and source have other keys
    assert fused not in counts


def test_the_compiler_is_told_to_keep_self_attention_alone():
    from torch.fx.experimental.proxy_tensor import make_fx

    from vedit.backbones.compiler_pass import KeepSelfAttention

    def attend(q, k):
        own = F.scaled_dot_product_attention(q, q, q)
        return F.scaled_dot_product_attention(own.sin(), k, k)

    graph = make_fx(attend)(torch.randn(1, 2, 64, 16), torch.randn(1, 2, 8, 16)).graph
    KeepSelfAttention()(graph)
    kernels = [node for node in graph.nodes if "flash_attention" in str(node.target)]
    kept = [node.meta.get("recompute") for node in kernels]
    assert kept == [CheckpointPolicy.MUST_SAVE, None]
    assert sum("recompute" in node.meta for node in graph.nodes) == 1


def test_a_share_is_for_blocks_without_recompute():
    compile_blocks = CompileBlocks(keep=0.6)
    assert compile_blocks.share(tiny(num_layers=2)) == 0.6
    assert compile_blocks.share(tiny(num_layers=2, recompute=EveryKth(2, KeepAttention()))) == 1.0


@pytest.mark.parametrize("keep", [0.0, 1.5])
def test_a_share_out_of_range_names_what_keeps_nothing(keep):
    with pytest.raises(ConfigError, match=r"keep is .* choose .* RecomputeBlocks"):
        CompileBlocks(keep=keep)


@pytest.mark.slow
def test_generated_code_agrees_with_the_plain_model():
    model = tiny(num_layers=2)
    LoRA(rank=4).apply(model)
    twin, _ = compiled(model, backend="inductor")
    results = [gradients(m, given(m)) for m in (model, twin)]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
