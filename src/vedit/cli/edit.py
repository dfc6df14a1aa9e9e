"""Edit one video of any size, rate and length with a trained checkpoint."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from vedit.cli.progress import ProgressLine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `vedit edit`."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        help="a run's folder, a .ckpt file, or the folder of a published model",
    )
    parser.add_argument("--video", required=True, type=Path, help="the video to edit")
    parser.add_argument("--instruction", default="", help="what to do, in words")
    parser.add_argument("--output", required=True, type=Path, help="the video to write")
    parser.add_argument("--mask", type=Path, help="video or image; white is edited")
    parser.add_argument(
        "--reference", type=Path, action="append", help="image or video; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--steps", type=int, help="of the sampler; default: the checkpoint's")
    parser.add_argument("--guidance", type=float, help="default: the checkpoint's")
    parser.add_argument(
        "--size",
        type=int,
        nargs=3,
        metavar=("FRAMES", "HEIGHT", "WIDTH"),
        help="edit at this size; default: that of the training clips",
    )
    parser.add_argument(
        "--side-by-side", action="store_true", help="write source and edit next to each other"
    )
    add_weights(parser)
    parser.add_argument("--device", help="such as cpu or cuda; default: a GPU if there is one")


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Declare which of a checkpoint's weights are meant."""
    parser.add_argument(
        "--weights",
        choices=("average", "trained"),
        help="the moving average that training kept, or the last weights; default: the average "
        "where there is one",
    )


def run(args: argparse.Namespace) -> None:
    """Edit the video."""
    from vedit.editor import Editor
    from vedit.editor.request import Request
    from vedit.errors import ConfigError
    from vedit.video import probe

    if args.steps is not None and args.steps < 1:
        raise ConfigError(f"--steps: got {args.steps}, expected at least 1.")
    if args.guidance is not None and not math.isfinite(args.guidance):
        raise ConfigError(f"--guidance: got {args.guidance}, expected a number.")
    probe(args.video)  # a wrong file is known before the model is loaded
    editor = Editor.from_checkpoint(args.checkpoint, args.device, args.weights)
    request = Request(
        args.instruction,
        args.mask,
        args.reference,
        args.seed,
        args.steps,
        args.guidance,
        None if args.size is None else tuple(args.size),
    )
    with ProgressLine("editing: step") as line:
        clip = editor.edit_file(
            args.video,
            args.output,
            request,
            side_by_side=args.side_by_side,
            progress=line.update,
        )
    print(f"{args.output}: {clip.count} frames of {clip.height}x{clip.width}", flush=True)
