import math

import pytest
import torch
from torch import Tensor

from vedit.attention import (
    Block,
    Kernel,
    attention,
    choose_kernel,
    pack_ragged,
    unpack_ragged,
)
from vedit.errors import ConfigError
from vedit.tokens import AttentionLayout

LENGTHS = (5, 4, 3)
# The first sees all, the second itself and the last, the third itself alone.
SEES = ((0, 1, 2), (1, 2), (2,))


def qkv(n: int = 12, m: int = 12, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(2, size, 2, 8, dtype=dtype) for size in (n, m, m)]


def by_hand(q: Tensor, k: Tensor, v: Tensor, may: Tensor) -> Tensor:
    """Attention through a dense boolean mask (B, N, M)."""
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~may[:, None], -math.inf).softmax(-1)
    return torch.einsum("bhnm,bmhd->bnhd", weights, v)


def dense_mask(layout: AttentionLayout) -> Tensor:
    owner = torch.arange(len(layout.lengths)).repeat_interleave(torch.tensor(layout.lengths))
    allowed = torch.zeros(len(layout.lengths), len(layout.lengths), dtype=torch.bool)
    for g, seen in enumerate(layout.sees or ()):
        allowed[g, list(seen)] = True
    return allowed[owner][:, owner].expand(2, -1, -1)


def ragged_on_cpu(blocks: list[Block]) -> Tensor:
    """What the kernels with packed runs compute, run by run."""
    ragged = pack_ragged(blocks)
    runs = zip(
        ragged.q.split(ragged.q_lengths),
        ragged.k.split(ragged.k_lengths),
        ragged.v.split(ragged.k_lengths),
        strict=True,
    )
    outs = []
    for q, k, v in runs:
        weights = torch.einsum("nhd,mhd->hnm", q / math.sqrt(q.shape[-1]), k).softmax(-1)
        outs.append(torch.einsum("hnm,mhd->nhd", weights, v))
    return unpack_ragged(torch.cat(outs), blocks)


KERNELS = {
    "sdpa": choose_kernel("cpu", torch.float64, "sdpa"),
    "flex": choose_kernel("cpu", torch.float64, "flex"),
    "packed runs": Kernel("packed runs", "test", ragged_on_cpu),
}


@pytest.fixture(params=KERNELS)
def kernel(request):
    return KERNELS[request.param]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_dense(kernel):
    q, k, v = qkv(12, 7)
    expected = by_hand(q, k, v, torch.ones(2, 12, 7, dtype=torch.bool))
    torch.testing.assert_close(attention(q, k, v, kernel=kernel), expected)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_segments_that_see_some_others_equal_a_dense_mask(kernel):
    q, k, v = qkv()
    layout = AttentionLayout(LENGTHS, SEES)
    expected = by_hand(q, k, v, dense_mask(layout))
    torch.testing.assert_close(attention(q, k, v, layout, kernel=kernel), expected)
    everyone = attention(q, k, v, AttentionLayout(LENGTHS), kernel=kernel)
    assert not torch.allclose(everyone, expected), "the restriction did nothing"


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_padding_is_attended_by_nobody(kernel):
    q, k, v = qkv(12, 7)
    valid = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    expected = by_hand(q, k, v, valid[:, None].expand(-1, 12, -1))
    torch.testing.assert_close(attention(q, k, v, valid=valid, kernel=kernel), expected)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_segments_and_padding_together(kernel):
    q, k, v = qkv()
    layout = AttentionLayout(LENGTHS, SEES)
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[1, [3, 6, 11]] = False
    expected = by_hand(q, k, v, dense_mask(layout) & valid[:, None])
    torch.testing.assert_close(attention(q, k, v, layout, valid, kernel), expected)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("layout", [None, AttentionLayout(LENGTHS, SEES)], ids=["dense", "runs"])
def test_a_query_without_any_key_gets_zero(kernel, layout):
    learns = kernel.name != "flex"  # which has no backward pass on a CPU
    q, k, v = (x.requires_grad_(learns) for x in qkv())
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[1, 9 if layout else 0 :] = False  # nothing left of the last segment, or of the sample
    out = attention(q, k, v, layout, valid, kernel)
    may = valid[:, None] & (torch.tensor(True) if layout is None else dense_mask(layout))
    heard = may.any(2).expand(2, 12)
    expected = by_hand(q, k, v, may | ~heard[..., None])
    torch.testing.assert_close(out[heard], expected[heard])
    assert not heard.all()
    assert not out[~heard].any()
    if not learns:
        return
    out.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))
    assert not q.grad[~heard].any()


@pytest.mark.parametrize("name", ["auto", "sdpa", "xformers", "flash"])
def test_a_cpu_always_gets_sdpa_and_is_told_why(name):
    kernel = choose_kernel("cpu", torch.float32, name)
    assert kernel.name == "sdpa"
    assert kernel.reason


def test_an_unknown_kernel_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'xformer' is none of .* Did you mean 'xformers'\?"):
        choose_kernel("cpu", torch.float32, "xformer")


@pytest.mark.skipif(torch.cuda.is_available(), reason="may have the kernels")
def test_cuda_without_extra_packages(monkeypatch):
    monkeypatch.setattr("vedit.attention.find_spec", lambda name: None)
    choose_kernel.cache_clear()
    auto = choose_kernel("cuda", torch.bfloat16)
    assert auto.name == "sdpa"
    assert "xformers is not installed" in auto.reason
    with pytest.raises(ConfigError, match="'flash' was asked for, but flash_attn is not installed"):
        choose_kernel("cuda", torch.bfloat16, "flash")
    monkeypatch.setattr("vedit.attention.find_spec", lambda name: object())
    choose_kernel.cache_clear()
    assert choose_kernel("cuda", torch.bfloat16).name == "xformers"
    with pytest.raises(ConfigError, match="float16 or bfloat16, not torch.float32"):
        choose_kernel("cuda", torch.float32, "flash")
    choose_kernel.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["auto", "sdpa", "xformers", "flash"])
def test_kernels_agree_on_a_gpu(name):
    pytest.importorskip({"xformers": "xformers", "flash": "flash_attn"}.get(name, "torch"))
    q, k, v = (x.cuda().bfloat16() for x in qkv())
    layout = AttentionLayout(LENGTHS, SEES)
    chosen = choose_kernel("cuda", torch.bfloat16, name)
    seen = dense_mask(layout).cuda()
    expected = by_hand(q.float(), k.float(), v.float(), seen)
    out = attention(q, k, v, layout, kernel=chosen)
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)
    valid = torch.ones(2, 12, dtype=torch.bool, device="cuda")
    valid[1, 3:] = False  # leaves the last two segments of the second sample without a key
    expected = by_hand(q.float(), k.float(), v.float(), seen & valid[:, None]).nan_to_num()
    out = attention(q, k, v, layout, valid, chosen)
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)
