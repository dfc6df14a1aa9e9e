"""The names that Wan's own code gives its transformer, which ComfyUI uses too.

Source: `Wan-Video/Wan2.1`, `wan/modules/model.py`. Everything here bears diffusers' names.
"""

from __future__ import annotations

import re

WHOLE = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "condition_embedder.image_embedder.pos_embed": "img_emb.emb_pos",
    "proj_out": "head.head",
    "patch_embedding": "patch_embedding",
}
ATTENTION = {"attn1": "self_attn", "attn2": "cross_attn"}
LAYERS = {
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "add_k_proj": "k_img",
    "add_v_proj": "v_img",
    "norm_added_k": "norm_k_img",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
}
BLOCK = {"ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2", "norm2": "norm3"}
TABLES = {"scale_shift_table": "head.modulation"}


def original(name: str) -> str:
    """A layer or parameter of the transformer by the name that Wan's own code gives it.

    Args:
        name: by diffusers' naming, with whatever follows the layer's name.

    Returns:
        The same with the layer's original name.

    Raises:
        KeyError: if there is no such layer.

    Examples:
        >>> original("blocks.3.attn2.to_out.0.weight"), original("proj_out.bias")
        ('blocks.3.cross_attn.o.weight', 'head.head.bias')
        >>> original("blocks.0.attn1.to_q.lora_A.weight")
        'blocks.0.self_attn.q.lora_A.weight'
        >>> original("blocks.0.scale_shift_table")
        'blocks.0.modulation'
    """
    if name in TABLES:
        return TABLES[name]
    if found := re.fullmatch(r"(blocks\.\d+)\.(.+)", name):
        return f"{found[1]}.{_in_block(found[2])}"
    return _renamed(name, WHOLE)


def _in_block(name: str) -> str:
    if name == "scale_shift_table":
        return "modulation"
    head, _, rest = name.partition(".")
    if head in ATTENTION:
        return f"{ATTENTION[head]}.{_renamed(rest, LAYERS)}"
    return _renamed(name, BLOCK)


def _renamed(name: str, table: dict[str, str]) -> str:
    for layer, other in table.items():
        if name == layer or name.startswith(f"{layer}."):
            return other + name[len(layer) :]
    raise KeyError(f"no such layer in Wan's transformer: {name}")
