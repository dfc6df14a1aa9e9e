"""Meshes: sizes that fit, and who shares what with whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.parallel.ranks import run_ranks
from torch import distributed

from vedit.errors import ConfigError
from vedit.parallel.mesh import MeshSizes, build_plan, fit_sizes

SIZE = st.integers(1, 6)


@given(SIZE, SIZE, SIZE, st.sampled_from(["replicate", "shard"]))
def test_what_is_left_open_fills_the_mesh(
    replicate: int, shard: int, context: int, left: str
) -> None:
    sizes = MeshSizes(replicate, shard, context)
    given = {"replicate": replicate, "shard": shard, left: "auto"}
    assert fit_sizes(sizes.world, sizes.world, context=context, **given) == sizes


def test_with_both_open_a_node_holds_a_copy() -> None:
    assert fit_sizes(32, 8, replicate="auto", shard="auto") == MeshSizes(4, 8, 1)
    assert fit_sizes(32, 8, replicate="auto", shard="auto", context=2) == MeshSizes(4, 4, 2)
    assert fit_sizes(1, 1) == MeshSizes(1, 1, 1)


@pytest.mark.parametrize(
    ("world", "sizes", "message"),
    [
        (1, {"shard": 2}, "replicate 1 x shard 2 x context 1 makes 2 processes, but .* is 1"),
        (8, {"shard": 3, "replicate": "auto"}, "replicate auto x shard 3 .* makes 6"),
        (2, {"context": 4}, "replicate 1 x shard auto x context 4 makes 4 processes"),
        (8, {"shard": 0}, "shard is 0, expected 1 or more"),
    ],
)
def test_what_does_not_fit_is_refused(world: int, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^trainer.strategy: {message}"):
        fit_sizes(world, world, **sizes)


def neighbours(shapes: list[MeshSizes]) -> list[tuple[int, int, list[int], list[int]]]:
    found = []
    for sizes in shapes:
        plan = build_plan(sizes, "cpu")
        group = plan.context_group
        shared = [] if group is None else distributed.get_process_group_ranks(group)
        holders = distributed.get_process_group_ranks(plan.weights.get_group("weights"))
        found.append((plan.data_rank, plan.data_ranks, shared, holders))
    return found


def test_ranks_of_a_context_group_share_samples_and_weights() -> None:
    shapes = [MeshSizes(2, 1, 2), MeshSizes(1, 2, 2), MeshSizes(2, 2, 1)]
    ours = run_ranks(4, neighbours, shapes)
    pairs, everyone = [[0, 1], [0, 1], [2, 3], [2, 3]], [[0, 1, 2, 3]] * 4
    expected = [
        (list(zip([0, 0, 1, 1], [2] * 4, pairs, pairs, strict=True))),
        (list(zip([0, 0, 1, 1], [2] * 4, pairs, everyone, strict=True))),
        (list(zip([0, 1, 2, 3], [4] * 4, [[]] * 4, pairs, strict=True))),
    ]
    for number, wanted in enumerate(expected):
        assert [rank[number] for rank in ours] == wanted
