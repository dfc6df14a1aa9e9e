"""The operator for runs of different lengths, by the library that runs on any device."""

from functools import partial

import pytest
import torch
from tests.attention.reference import LAYOUT, by_hand, dense_mask, qkv

from vedit.attention import attention, choose_kernel
from vedit.attention.blocks import Block
from vedit.attention.kernel import Kernel, at_once
from vedit.attention.runs import Runs, _on_device, attend_runs
from vedit.attention.sdpa import sdpa

RUNS = Kernel("runs", "test", at_once(Runs("reference"), sdpa))


def packed(dtype=torch.float64):
    q, k, v = (x.flatten(0, 1).requires_grad_() for x in qkv(5, 6, dtype))
    return q, k, v, [3, 1, 6], [2, 9, 1], "reference"


def test_the_operator_keeps_the_rules_of_torch():
    """Its schema, its shapes under tracing, and its gradients with fixed and symbolic sizes."""
    torch.library.opcheck(attend_runs, packed())


def test_gradients_are_those_of_finite_differences():
    q, k, v, *rest = packed()
    assert torch.autograd.gradcheck(lambda *x: attend_runs(*x, *rest)[0], (q, k, v))


def test_a_compiled_graph_holds_one_call_and_agrees():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def both(q, k, v):
        return attention(q, k, v, LAYOUT, kernel=RUNS)

    inputs = qkv()
    compiled = torch.compile(both, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(*inputs), both(*inputs))
    calls = [n for n in graphs[0].graph.nodes if "attention_runs" in str(n.target)]
    assert len(calls) == 1


def test_half_precision_computes_wide():
    q, k, v = qkv(dtype=torch.bfloat16)
    out = attention(q, k, v, LAYOUT, kernel=RUNS)
    assert out.dtype == torch.bfloat16
    expected = by_hand(q.double(), k.double(), v.double(), dense_mask(LAYOUT))
    torch.testing.assert_close(out.double(), expected, rtol=0.01, atol=0.01)


def test_where_runs_begin_is_put_on_the_device_once():
    """A tensor made from host numbers in every layer would make the host wait each time."""
    q, k, v = qkv()
    _on_device.cache_clear()
    for _ in range(3):
        attention(q, k, v, LAYOUT, kernel=RUNS)
    assert _on_device.cache_info().misses == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["auto", "sdpa", "cudnn", "flash", "flash3", "flash4", "xformers"])
def test_kernels_agree_on_a_gpu(name):
    modules = {"flash": "flash_attn.flash_attn_interface", "flash3": "flash_attn_interface"}
    modules |= {"flash4": "flash_attn.cute", "xformers": "xformers"}
    pytest.importorskip(modules.get(name, "torch"))
    shape = (2, 12, 2, 64)
    inputs = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    seen = dense_mask(LAYOUT).cuda()
    valid = torch.ones(2, 12, dtype=torch.bool, device="cuda")
    valid[1, 3:] = False  # leaves the last two segments of the second sample without a key
    kernel = choose_kernel("cuda", torch.bfloat16, name)
    everyone = torch.ones_like(seen)
    weight = torch.randn(shape, device="cuda")
    for layout, flags, may in (
        (None, None, everyone),
        (LAYOUT, None, seen),
        (LAYOUT, valid, seen & valid[:, None]),
    ):
        results = []
        for dtype, run in (
            (torch.bfloat16, partial(attention, layout=layout, valid=flags, kernel=kernel)),
            (torch.float32, lambda *x, may=may: by_hand(*x, may).nan_to_num()),
        ):
            leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
            out = run(*leaves)
            heard = may.any(2)[..., None, None]
            (out * heard * weight).sum().backward()
            results.append([out, *(x.grad.nan_to_num() for x in leaves)])
        close = {"rtol": 0.03, "atol": 0.03}
        torch.testing.assert_close(results[0][0].float(), results[1][0], **close)
        if flags is None:  # by hand, a query without a key has no gradient
            for a, b in zip(results[0][1:], results[1][1:], strict=True):
                torch.testing.assert_close(a.float(), b, **close)


def test_a_single_block_is_left_as_it_is():
    q, k, v = qkv()
    out = Runs("reference")([Block(q, k, v, None)])
    torch.testing.assert_close(out, by_hand(q, k, v, torch.ones(2, 12, 12, dtype=torch.bool)))
