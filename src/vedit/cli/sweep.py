"""`vedit sweep`: run a grid of experiments, and make its table."""

from __future__ import annotations

import fnmatch
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from vedit.cli.arguments import parse_arguments
from vedit.cli.sweep_experiments import ComposedExperiments
from vedit.errors import ConfigError, nearest
from vedit.sweep.problems import GridErrors

USAGE = """\
usage: vedit sweep FILE [--dry-run] [--only PATTERN] [--overlay FILE] [--output DIR]
                   [--jobs N] [--max-retries N]
                   [--launcher local|slurm|optuna|CLASS [--launcher.KEY VALUE ...]]
       vedit sweep status|report|cancel FOLDER|FILE [--overlay FILE]

Runs every cell of a grid, a YAML file of named axes of named options over an experiment. All cells
are composed, checked and built on the meta device before the first one runs. Runs are named by
their content: those that have finished are skipped, those that were interrupted resume.

  --dry-run        show the cells, how they differ, their parameters, tokens and operations
  --only PATTERN   cells whose name matches, such as 'source=channels*'
  --overlay FILE   put the grid at another scale: an experiment's file over the base
  --output DIR     folder of the sweep (default runs/sweeps/NAME)
  --jobs N         runs at a time
  --max-retries N  how often a run that fails is tried again (default 0)
  --launcher       what starts the runs; --launcher.KEY VALUE are its arguments

  status           where the cells stand
  report           write the tables again
  cancel           stop what runs; the same sweep goes on from there
"""

LAUNCHERS = {
    "local": "vedit.sweep.launchers.local.Local",
    "slurm": "vedit.sweep.launchers.slurm.Slurm",
    "optuna": "vedit.sweep.launchers.optuna.Optuna",
}
VERBS = ("status", "report", "cancel")
OPTIONS = ("only", "overlay", "output", "jobs", "max-retries", "launcher")


def main(command: str, given: Sequence[str]) -> int:
    """Run the command.

    Args:
        command: "sweep".
        given: what follows it.

    Returns:
        0 if every cell has finished, 1 if one failed, 2 if the grid is wrong.

    Raises:
        ConfigError: for wrong usage.
    """
    words, rest = [], list(given)
    while rest and not rest[0].startswith("-"):
        words.append(rest.pop(0))
    rest = ["--overlay" if word == "-o" else word for word in rest]
    arguments = parse_arguments(rest, flags=("help", "dry-run"))
    if "help" in arguments.flags or not given:
        print(USAGE, end="")
        return 0
    options = _options(arguments.overrides)
    verb = words.pop(0) if words and words[0] in VERBS else "run"
    if len(words) != 1:
        raise ConfigError(f"vedit sweep: expected one grid file, got {' '.join(words) or 'none'}")
    overlays = [str(value) for key, value in arguments.overrides if key == "overlay"]
    try:
        if verb != "run":
            return _follow_up(verb, _folder(words[0], overlays, options))
        return run(words[0], overlays, options, "dry-run" in arguments.flags)
    except GridErrors as errors:
        for problem in errors.problems:
            print(f"vedit: {problem}", file=sys.stderr)
        return 2


def run(file: str, overlays: Sequence[str], options: dict[str, Any], dry: bool) -> int:
    """Check a grid and carry it out.

    Args:
        file: the grid.
        overlays: files over its base.
        options: of the command line.
        dry: whether to show what would be done instead.

    Returns:
        The exit code.

    Raises:
        ConfigError: if anything is wrong with the grid.
        DataError: if another process works in the same folder.
    """
    from vedit.data.lock import check_free
    from vedit.sweep.conduct import conduct
    from vedit.sweep.folder import SweepFolder
    from vedit.sweep.grid import read_grid
    from vedit.sweep.plan import make_plan

    experiments = ComposedExperiments()
    grid = read_grid(file, experiments, overlays)
    folder = SweepFolder(_folder(file, overlays, options))
    if folder.root.is_dir() and not dry:
        check_free(folder.root)  # before the work of checking all cells
    launcher = launcher_of(options)
    plan = make_plan(grid, experiments)
    wanted = _chosen([cell.name for cell in plan.cells], options.get("only"))
    if dry:
        _show(plan, folder)
        return 0
    digests = [cell.digest for cell in plan.cells if cell.name in wanted]
    signal.signal(signal.SIGTERM, _interrupt)
    return conduct(plan, folder, digests, launcher, int(options.get("max-retries", 0)))


def launcher_of(options: dict[str, Any]) -> dict[str, Any]:
    """The launcher's class and arguments, checked.

    Args:
        options: of the command line.

    Returns:
        `class_path` and `init_args`.

    Raises:
        ConfigError: if there is no such class or it does not take these arguments.
    """
    from vedit.cli.extends import Composed, Layer
    from vedit.cli.schema import Checker
    from vedit.sweep.launchers.base import Launcher

    given = options.get("launcher", "local")
    tree: dict[str, Any] = dict(given) if isinstance(given, dict) else {"class_path": str(given)}
    name = tree.get("class_path", "")
    tree["class_path"] = LAUNCHERS.get(name, name)
    if "." not in tree["class_path"]:
        hint = nearest(name, LAUNCHERS) or f" There are: {', '.join(LAUNCHERS)}, or a class_path"
        raise ConfigError(f"--launcher: no launcher is called '{name}'.{hint}")
    own = {k.removeprefix("launcher."): v for k, v in options.items() if k.startswith("launcher.")}
    if "jobs" in options:
        own["jobs"] = options["jobs"]
    tree["init_args"] = {**(tree.get("init_args") or {}), **own}
    checker = Checker(Composed({"launcher": tree}, (Layer("command line", {"launcher": tree}),)))
    checked: dict[str, Any] = checker.value(Launcher, tree, "launcher")
    return checked


def _options(overrides: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    for key, value in overrides:
        if key not in OPTIONS and not key.startswith("launcher."):
            hint = nearest(key, OPTIONS) or f" There are: {', '.join('--' + o for o in OPTIONS)}"
            raise ConfigError(f"--{key}: unknown option.{hint}")
        whole = isinstance(value, int) and not isinstance(value, bool)
        if key in ("jobs", "max-retries") and (not whole or value < (key == "jobs")):
            raise ConfigError(f"--{key}: expected a whole number, got {value!r}")
    return dict(overrides)


def _folder(word: str, overlays: Sequence[str], options: dict[str, Any]) -> Path:
    """The folder of a sweep that a folder, a grid file, or --output names."""
    if "output" in options:
        return Path(str(options["output"]))
    if Path(word).is_dir():
        return Path(word)
    from vedit.cli.yaml_file import read_yaml

    name = str(read_yaml(Path(word)).get("name", Path(word).stem))
    scales = [Path(o).parent.name or Path(o).stem for o in overlays]
    return Path("runs", "sweeps", *scales, name)


def _chosen(names: Sequence[str], pattern: Any) -> set[str]:
    if pattern is None:
        return set(names)
    pattern = str(pattern)
    whole = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    found = set(fnmatch.filter(names, whole))
    if not found:
        raise ConfigError(f"--only: no cell's name matches {pattern}.{nearest(pattern, names)}")
    return found


def _show(plan: Any, folder: Any) -> None:
    from vedit.sweep.collect import collect
    from vedit.sweep.folder import PLAN, recorded
    from vedit.sweep.table import planned, speed_of

    earlier = collect(folder.root, curves=False) if (folder.root / PLAN).exists() else []
    done = {d for d, run in plan.runs.items() if folder.is_finished(recorded(run))}
    print(planned(plan, done, speed_of(earlier)))


def _follow_up(verb: str, root: Path) -> int:
    from vedit.sweep import conduct
    from vedit.sweep.folder import SweepFolder

    return int(getattr(conduct, verb)(SweepFolder(root)))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
