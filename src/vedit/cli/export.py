"""Write a trained editor in the layout of diffusers or ComfyUI, or its adapter alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from vedit.cli.edit import add_weights

FORMATS = ("diffusers", "lora", "comfyui", "vedit")
DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `vedit export`.

    Args:
        parser: to declare them on.
    """
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        help="a run's folder, a .ckpt file, or the folder of a published model",
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=FORMATS,
        help="diffusers: a folder, adapters merged; lora: the adapter for load_lora_weights; "
        "comfyui: adapter or merged transformer by ComfyUI's names; vedit: for vedit alone, "
        "whatever the blocks are",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder to write, new or empty")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the transformer (%(default)s)"
    )
    add_weights(parser)


def run(args: argparse.Namespace) -> None:
    """Export.

    Args:
        args: parsed arguments.
    """
    import torch

    from vedit.export.export import export

    dtype: torch.dtype = getattr(torch, args.dtype)
    print(
        *export(args.checkpoint, args.format, args.output, dtype, args.weights),
        sep="\n",
        flush=True,
    )
