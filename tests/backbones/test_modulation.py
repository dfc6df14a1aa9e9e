"""The hand-written backward passes against the plain formulas."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from vedit.backbones.modulation import (
    add_gated,
    modulated_norm,
    plain_add_gated,
    plain_modulated_norm,
)
from vedit.backbones.norm import LayerNorm, RMSNorm

EPS = 1e-6
CASES = [(1, (5,)), (3, (5,)), (2, (2, 4, 1)), (2, (1, 2, 1, 1, 3, 1, 1, 2, 1, 4))]


def rows(batch, lengths, dtype=torch.float64):
    x, update = torch.randn(2, batch, sum(lengths), 6, dtype=dtype).requires_grad_().unbind()
    shift, scale = torch.randn(2, batch, len(lengths), 6, dtype=torch.float64).unbind()
    return x, update, shift, scale


def leaves(*tensors):
    return [t.detach().clone().requires_grad_() for t in tensors]


@pytest.mark.parametrize(("batch", "lengths"), CASES)
def test_each_segment_is_modulated_by_its_own_row(batch, lengths):
    x, update, shift, scale = rows(batch, lengths)
    per_token = [row.repeat_interleave(torch.tensor(lengths), 1) for row in (shift, scale)]
    expected = F.layer_norm(x, (6,), eps=EPS) * (1 + per_token[1]) + per_token[0]
    torch.testing.assert_close(modulated_norm(x, shift, scale, lengths, EPS), expected)
    torch.testing.assert_close(plain_modulated_norm(x, shift, scale, lengths, EPS), expected)
    expected = x + update * per_token[0]
    torch.testing.assert_close(add_gated(x, update, shift, lengths), expected)
    torch.testing.assert_close(plain_add_gated(x, update, shift, lengths), expected)


@pytest.mark.parametrize(("batch", "lengths"), CASES)
def test_gradients_are_those_of_finite_differences(batch, lengths):
    x, update, shift, scale = leaves(*rows(batch, lengths))
    assert gradcheck(lambda *a: modulated_norm(*a, lengths, EPS), (x, shift, scale))
    assert gradcheck(lambda *a: add_gated(*a, lengths), (x, update, shift))


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient_and_disturbs_no_other(frozen):
    lengths = (2, 4, 1)
    x, update, shift, scale = rows(2, lengths)
    for function, plain, inputs in (
        (modulated_norm, plain_modulated_norm, (x, shift, scale, lengths, EPS)),
        (add_gated, plain_add_gated, (x, update, shift, lengths)),
    ):
        results = []
        for run in (function, plain):
            tensors = leaves(*inputs[:3])
            tensors[frozen].requires_grad_(False)
            run(*tensors, *inputs[3:]).square().sum().backward()
            results.append([t.grad for t in tensors])
        assert results[0][frozen] is None
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


def test_half_precision_goes_in_and_out_and_computes_wide():
    lengths = (2, 4, 1)
    x, update, shift, scale = rows(2, lengths)
    exact = modulated_norm(x, shift, scale, lengths, EPS), add_gated(x, update, shift, lengths)
    x, update, shift, scale = leaves(x.bfloat16(), update.bfloat16(), shift.float(), scale.float())
    half = modulated_norm(x, shift, scale, lengths, EPS), add_gated(x, update, shift, lengths)
    for a, b in zip(half, exact, strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.double(), b, rtol=0.02, atol=0.05)
    (half[0].sum() + half[1].sum()).backward()
    assert x.grad.dtype == update.grad.dtype == torch.bfloat16
    assert shift.grad.dtype == torch.float32


def test_rms_norm_is_that_of_torch_with_its_gradients():
    ours = RMSNorm(6, EPS).double()
    torch.nn.init.normal_(ours.weight)
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ours(x), F.rms_norm(x, (6,), ours.weight, EPS))

    def with_weight(x, weight):
        return torch.func.functional_call(ours, {"weight": weight}, (x,))

    assert gradcheck(with_weight, (x, ours.weight.detach().clone().requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rms_norm_in_half_precision(dtype):
    ours = RMSNorm(64, EPS)
    x = 100 * torch.randn(2, 5, 64)  # squares overflow float16
    x.requires_grad_()
    out = ours(x.to(dtype))
    assert out.dtype == dtype
    expected = F.rms_norm(x, (64,), ours.weight, EPS)
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_layer_norm_keeps_the_dtype_and_computes_wide():
    norm = LayerNorm(6, EPS)
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(norm(x), F.layer_norm(x, (6,), eps=EPS))
    assert norm.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert norm.double()(x.double()).dtype == torch.float64
