"""What the compiler is told about a block's graph before it decides what to compute again."""

from __future__ import annotations

from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node
from torch.utils.checkpoint import CheckpointPolicy

from vedit.backbones.recompute import keep_self_attention


class KeepSelfAttention(CustomGraphPass):
    """Marks the results of self-attention as kept.

    The compiler weighs matrix products against memory, but takes attention kernels that it does not
    know, which is all but two, for cheap.
    """

    def __call__(self, graph: Graph) -> None:
        """Mark the nodes of a graph that holds forward and backward pass.

        What `recompute` of the backbone has marked already is its decision.
        """
        for node in graph.nodes:
            if node.op == "call_function" and "recompute" not in node.meta and _is_kept(node):
                node.meta["recompute"] = CheckpointPolicy.MUST_SAVE

    def uuid(self) -> bytes:
        """Part of the key under which compiled graphs are stored."""
        return get_hash_for_files((__file__,))


def _is_kept(node: Node) -> bool:
    values = [arg.meta.get("val") for arg in node.args if isinstance(arg, Node)]
    tensors = [value for value in values if isinstance(value, Tensor)]
    return keep_self_attention(None, node.target, *tensors) == CheckpointPolicy.MUST_SAVE
