"""References are looked up as OmegaConf would, only faster."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from vedit.cli.interpolation import InterpolationError, resolve

NAMES = ("a", "b", "c")
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(".".join)
LEAVES = st.one_of(
    st.integers(-9, 9),
    st.sampled_from([None, True, 1.5, "", "words", "1e-4", "runs/${a}", r"\${a}", "${.b}", "${"]),
    PATHS.map(lambda path: f"${{{path}}}"),
)
TREES = st.dictionaries(
    st.sampled_from(NAMES),
    st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
        ),
        max_leaves=6,
    ),
)


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_the_quick_way_gives_what_omegaconf_gives(tree: dict[str, Any]) -> None:
    before = copy.deepcopy(tree)
    try:
        config = OmegaConf.create(tree)
        expected = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except Exception:  # whatever it objects to
        with pytest.raises((InterpolationError, RecursionError)):
            resolve(tree)
        return
    assert resolve(tree) == expected
    assert tree == before


def test_what_is_resolved_shares_nothing_with_its_source() -> None:
    tree: dict[str, Any] = {"a": {"b": [1]}, "c": "${a}"}
    found = resolve(tree)
    found["c"]["b"].append(2)
    assert found["a"] == tree["a"] == {"b": [1]}


@pytest.mark.parametrize("tree", [{"a": "${a}"}, {"a": "${b}", "b": "${a}"}, {"a": {"b": "${a}"}}])
def test_circles_are_errors(tree: dict[str, Any]) -> None:
    with pytest.raises((InterpolationError, RecursionError)):
        resolve(tree)
