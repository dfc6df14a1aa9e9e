"""One attention function, the kernels behind it, and the choice among them.

Every kernel takes and returns (B, N, heads, head width). Who sees whom is said segment by segment
(`vedit.tokens.AttentionLayout`), never by a dense (N, N) mask: queries of one segment attend to the
concatenated keys of the segments they see.
"""

from vedit.attention.attend import attention
from vedit.attention.blocks import Block
from vedit.attention.choice import KernelName, choose_kernel
from vedit.attention.kernel import Kernel

__all__ = ["Block", "Kernel", "KernelName", "attention", "choose_kernel"]
