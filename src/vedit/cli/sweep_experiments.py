"""Experiments as a sweep needs them: composed, checked, and built on the meta device."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vedit.cli.experiment import check, check_top, system
from vedit.cli.extends import Composed, Layer, compose_layers, find_config, layers_of, merge
from vedit.cli.yaml_file import Tree, read_yaml
from vedit.errors import DataError
from vedit.sweep.experiments import Composition, Facts

SECTION = "sweep"
"""Top-level key of an overlay that speaks to the sweep instead of the experiment."""

UNBUILT = ("seed", "optimizer", "lr_scheduler")
"""Arguments of the model that neither its shapes nor its operations depend on."""


class ComposedExperiments:
    """What `vedit.sweep.experiments.Experiments` asks for."""

    def __init__(self) -> None:
        self._facts: dict[str, Facts] = {}
        self._layers: dict[tuple[str, ...], list[Layer]] = {}

    def find(self, name: str, beside: Path) -> str:
        """The file that a name in another file means."""
        return str(find_config(name, beside))

    def read_yaml(self, path: Path) -> Tree:
        """Read one YAML mapping."""
        return read_yaml(path)

    def merge(self, base: Tree, top: Mapping[str, Any]) -> Tree:
        """Merge two trees as an experiment's files are merged."""
        return merge(base, top)

    def sweep_section(self, files: Sequence[str]) -> Tree:
        """What overlays say under `sweep`."""
        section: Tree = {}
        for layer in layers_of(files):
            section = merge(section, layer.tree.get(SECTION) or {})
        return section

    def compose(self, files: Sequence[str], overrides: Sequence[tuple[str, Any]]) -> Composed:
        """Compose an experiment and check its top level."""
        key = tuple(files)
        if key not in self._layers:
            self._layers[key] = layers_of(files)
        composed = compose_layers(self._layers[key], overrides, Path(files[0]).stem)
        composed.tree.pop(SECTION, None)
        check_top(composed, files[0])
        return composed

    def check(self, composition: Composition) -> Tree:
        """Check every key against the constructors, and write class names out in full."""
        assert isinstance(composition, Composed)
        return check(composition)

    def facts(self, checked: Tree, video: tuple[int, int, int] | None) -> Facts:
        """Build on the meta device and count; models that are equal are built once."""
        size = video or first_size(checked.get("data") or {})
        key = json.dumps([_built(checked["model"]), size], sort_keys=True, default=str)
        if key not in self._facts:
            with _uncollected():
                self._facts[key] = _facts(checked, size)
        return self._facts[key]


def _built(model: Tree) -> Tree:
    """A model without what building it on the meta device does not look at."""
    if "class_path" in model:
        return model  # of a class of its own, which may look at anything
    return {key: value for key, value in model.items() if key not in UNBUILT}


@contextmanager
def _uncollected() -> Iterator[None]:
    """Hold garbage collection back: it would walk many thousand new modules, again and again."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _facts(checked: Tree, size: tuple[int, int, int] | None) -> Facts:
    from vedit.callbacks.description import describe
    from vedit.callbacks.parameters import part_rows

    built = system(checked)
    built.build(meta=True)
    rows = part_rows(built)
    trainable, frozen = sum(row.trainable for row in rows), sum(row.frozen for row in rows)
    if size is None:
        return Facts(trainable, frozen)
    description = describe(built, *size)
    return Facts(trainable, frozen, description.tokens, description.step_flops)


def first_size(data: Tree) -> tuple[int, int, int] | None:
    """(frames, height, width) of the first training sample; None if there is none yet."""
    from vedit.data.index import read_index

    folders = (data.get("init_args") or data).get("train")
    first = next(iter([folders] if isinstance(folders, str) else folders or []), None)
    if first is None:
        return None
    try:
        record = read_index(first).entries[0].record
    except (DataError, IndexError):
        return None
    return record.frames, record.height, record.width
