"""Fetch clips, build and encode data sets of exact edits, and try the edits on any video."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vedit.cli.progress import ProgressLine
from vedit.errors import ConfigError, nearest

Run = Callable[[argparse.Namespace], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands of `vedit data`."""
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)

    def command(name: str, run: Run, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run_data=run)
        return sub

    fetch = command("fetch-demo", _fetch_demo, "download the demo clips, with attribution")
    fetch.add_argument("--output", type=Path, default=Path("data/demo"), help="folder to fill")

    build = command("build", _build, "make shards of exact edits from clips")
    _add_config(build, required=True)
    build.add_argument("--split", action="append", help="only this split; may be repeated")

    encode = command("encode", _encode, "compute latents and text features of shards once")
    encode.add_argument("directories", nargs="*", type=Path, metavar="DIR", help="shard folders")
    encode.add_argument("--shards", type=Path, action="append", default=[], help="same as DIR")
    _add_config(encode, required=False)
    encode.add_argument("--codec", type=Path, help="folder of a Wan VAE, instead of --config")
    encode.add_argument("--context", type=Path, help="folder of a UMT5 encoder")
    encode.add_argument("--tokenizer", type=Path, help="its tokenizer; default: its own folder")
    encode.add_argument("--max-tokens", type=int, help="length to which instructions are padded")
    encode.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the cache")
    encode.add_argument("--batch-size", type=int, help="clips encoded at a time")
    encode.add_argument("--device", help="such as cpu or cuda; default: a GPU if there is one")

    index = command("index", _index, "check shards, also those of others, and index them")
    index.add_argument("directory", type=Path, metavar="DIR")

    edits = command("edits", _edits, "list the exact edits and the words that ask for them")
    edits.add_argument("--json", action="store_true", help="for programs")

    apply = command("apply", _apply, "apply an exact edit to a video of any size and length")
    apply.add_argument("--edit", required=True, metavar="NAME", help="see `vedit data edits`")
    apply.add_argument("--video", required=True, type=Path)
    apply.add_argument("--output", required=True, type=Path)
    apply.add_argument("--mask", type=Path, help="video or image; white is edited")


def run(args: argparse.Namespace) -> None:
    """Run the chosen subcommand."""
    args.run_data(args)


def _add_config(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--config", type=Path, required=required, help="such as configs/data/*.yaml"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="override a key of the config; may be repeated",
    )  # fmt: skip


def _overrides(args: argparse.Namespace) -> list[tuple[str, object]]:
    from vedit.cli.yaml_file import parse_value

    pairs = []
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set: got {text!r}, expected KEY=VALUE.")
        pairs.append((key, parse_value(value)))
    return pairs


def _say(line: str) -> None:
    print(line, flush=True)


def _say_of(name: str, line: str) -> None:
    _say(f"[{name}] {line}")


# --- clips and shards ----------------------------------------------------------------------


def _fetch_demo(args: argparse.Namespace) -> None:
    from vedit.data.clips import fetch_demo

    paths = fetch_demo(args.output, progress=_say)
    _say(f"{len(paths)} clips in {args.output}")


def _build(args: argparse.Namespace) -> None:
    from vedit.cli.data_config import read_data_config
    from vedit.engine.build import build

    splits = {s.split: s for s in read_data_config(args.config, _overrides(args)).splits}
    for name in args.split or splits:
        if name not in splits:
            raise ConfigError(
                f"--split: {args.config} has no split {name!r}, only {', '.join(splits)}."
                f"{nearest(name, splits)}"
            )
        config = splits[name]
        index = build(config, progress=partial(_say_of, name))
        _say(f"[{name}] {len(index)} samples in {config.output}")


def _encode(args: argparse.Namespace) -> None:
    from vedit.cli.data_encode import plan, run_plan

    run_plan(plan(args, _overrides(args)), progress=_say)


def _index(args: argparse.Namespace) -> None:
    from vedit.data.index import build_index

    index = build_index(args.directory, progress=_say)
    _say(f"{args.directory}: {len(index)} samples, all of them whole")


# --- edits ---------------------------------------------------------------------------------


def _edits(args: argparse.Namespace) -> None:
    from vedit.engine.experts import experts

    found = experts().values()
    if args.json:
        rows = [
            {
                "name": e.name,
                "temporal": e.temporal,
                "local": e.local,
                "instructions": list(e.instructions),
            }
            for e in found
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for e in found:
        marks = [
            *(["depends on time"] if e.temporal else []),
            *([] if e.local else ["whole frame only"]),
        ]
        print(e.name + (f"  ({', '.join(marks)})" if marks else ""))
        for text in e.instructions:
            print(f"    {text}")


def _apply(args: argparse.Namespace) -> None:
    from vedit.cli.data_apply import apply_to_file
    from vedit.engine.experts import expert

    edit = expert(args.edit)
    with ProgressLine(f"{edit.name}: frame") as line:
        frames = apply_to_file(edit, args.video, args.output, args.mask, line.update)
    _say(f"{args.output}: {frames} frames, {edit.name}")
