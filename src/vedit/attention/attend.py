"""The one attention function."""

from torch import Tensor

from vedit.attention.blocks import opened, silenced, split_into_blocks
from vedit.attention.kernel import Kernel
from vedit.attention.sdpa import SDPA
from vedit.tokens import AttentionLayout


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
        k: (B, M, heads, head width); M = N where `layout` restricts who sees whom and names no
            other keys.
        v: (B, M, heads, head width).
        layout: segments of the sequence and whom each sees; None or `sees=None` is dense.
        valid: (B, M) bool, False where a key is padding that nobody attends to.
        kernel: from `choose_kernel`; None is PyTorch's own.

    Returns:
        (B, N, heads, head width); zero for a query all of whose keys are padding.
    """
    run = (kernel or SDPA).run
    blocks = split_into_blocks(q, k, v, layout, valid)
    if valid is None:
        return run(blocks)
    return silenced(run([opened(block) for block in blocks]), blocks)
