import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attention.reference import KERNELS, LAYOUT, LENGTHS, by_hand, dense_mask, qkv

from vedit.attention import attention
from vedit.attention.blocks import split_into_blocks
from vedit.attention.sdpa import cudnn
from vedit.tokens import AttentionLayout

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture(params=KERNELS)
def kernel(request):
    return KERNELS[request.param]


def test_dense(kernel):
    q, k, v = qkv(12, 7)
    expected = by_hand(q, k, v, torch.ones(2, 12, 7, dtype=torch.bool))
    torch.testing.assert_close(attention(q, k, v, kernel=kernel), expected)


def test_segments_that_see_some_others_equal_a_dense_mask(kernel):
    q, k, v = qkv()
    expected = by_hand(q, k, v, dense_mask(LAYOUT))
    torch.testing.assert_close(attention(q, k, v, LAYOUT, kernel=kernel), expected)
    everyone = attention(q, k, v, AttentionLayout(LENGTHS), kernel=kernel)
    assert not torch.allclose(everyone, expected), "the restriction did nothing"


def test_padding_is_attended_by_nobody(kernel):
    q, k, v = qkv(12, 7)
    valid = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    expected = by_hand(q, k, v, valid[:, None].expand(-1, 12, -1))
    torch.testing.assert_close(attention(q, k, v, valid=valid, kernel=kernel), expected)


def test_segments_and_padding_together(kernel):
    q, k, v = qkv()
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[1, [3, 6, 11]] = False
    expected = by_hand(q, k, v, dense_mask(LAYOUT) & valid[:, None])
    torch.testing.assert_close(attention(q, k, v, LAYOUT, valid, kernel), expected)


@pytest.mark.parametrize("layout", [None, LAYOUT], ids=["dense", "runs"])
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


@st.composite
def layouts(draw):
    """Segments and whom each sees; everyone sees someone."""
    lengths = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    indices = st.sets(st.integers(0, len(lengths) - 1), min_size=1)
    return AttentionLayout(lengths, tuple(tuple(sorted(draw(indices))) for _ in lengths))


@settings(deadline=None, max_examples=60)
@given(layouts(), st.sampled_from(["sdpa", "runs"]))
def test_any_layout_equals_its_dense_mask_with_gradients(layout, name):
    n = sum(layout.lengths)
    weight = torch.randn(2, n, 2, 8, dtype=torch.float64)
    inputs = qkv(n, n)
    results = []
    for run in (
        lambda q, k, v: attention(q, k, v, layout, kernel=KERNELS[name]),
        lambda q, k, v: by_hand(q, k, v, dense_mask(layout)),
    ):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = run(*leaves)
        (out * weight).sum().backward()
        results.append([out.detach(), *(x.grad for x in leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_samples_side_by_side_are_not_copied():
    q, k, v = (x[:1] for x in qkv())
    blocks = split_into_blocks(q, k, v, AttentionLayout(LENGTHS, ((0, 1), (0, 1), (2,))), None)
    assert [block.q.shape[1] for block in blocks] == [9, 3]
    for block in blocks:
        assert block.k.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()


def test_the_order_of_backends_goes_into_a_compiled_graph():
    """A context manager inside a block must not break its graph, whatever the device."""
    q, k, v = qkv()
    compiled = torch.compile(cudnn, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(q, k, v, None), cudnn(q, k, v, None))
