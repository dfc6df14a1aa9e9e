"""Write a pretrained nano run as the folders that ship: a diffusers transformer and injections.

python nano/ship.py runs/pretrain --output nano
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from vedit.finetune.trained import read_trained

PARTS = {
    "model.backbone.": "",
    "context.connector.": "condition_embedder.text_embedder.",
}
"""Prefix of a part's keys in a checkpoint, and where a diffusers Wan transformer keeps them."""


def renamed(state: dict[str, Tensor], prefix: str, place: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, as float16, under `place` instead."""
    return {
        place + key.removeprefix(prefix): tensor.half().contiguous()
        for key, tensor in state.items()
        if key.startswith(prefix)
    }


def write_transformer(state: dict[str, Tensor], folder: Path) -> None:
    """Save the backbone and the text projection so that diffusers loads them."""
    from diffusers import WanTransformer3DModel

    tensors: dict[str, Tensor] = {}
    for prefix, place in PARTS.items():
        tensors |= renamed(state, prefix, place)
    width, channels = tensors["patch_embedding.weight"].shape[:2]
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=width // 32,
        attention_head_dim=32,
        in_channels=channels,
        out_channels=channels,
        text_dim=tensors["condition_embedder.text_embedder.linear_1.weight"].shape[1],
        freq_dim=tensors["condition_embedder.time_embedder.linear_1.weight"].shape[1],
        ffn_dim=tensors["blocks.0.ffn.net.0.proj.weight"].shape[0],
        num_layers=1 + max(int(k.split(".")[1]) for k in tensors if k.startswith("blocks.")),
        cross_attn_norm=True,
        rope_max_seq_len=1024,
    )
    model.half().load_state_dict(tensors)
    model.save_pretrained(folder)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/pretrain"))
    parser.add_argument("--output", type=Path, default=Path("nano"))
    arguments = parser.parse_args()
    state = read_trained(arguments.run)
    write_transformer(state, arguments.output / "transformer")
    injections = renamed(state, "model.injections.", "model.injections.")
    (arguments.output / "injections").mkdir(parents=True, exist_ok=True)
    save_file(injections, arguments.output / "injections" / "model.safetensors")
    print(f"{arguments.output}: transformer and {len(injections)} tensors of injections")


if __name__ == "__main__":
    main()
