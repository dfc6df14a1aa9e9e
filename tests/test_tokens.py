from dataclasses import replace

import pytest
import torch

from vedit.tokens import Context, Segment, TokenSequence, grid_positions


def embed(latents):
    tokens = latents.flatten(2).transpose(1, 2)
    return tokens, tuple(latents.shape[2:])


def start():
    return TokenSequence.of_target(torch.randn(2, 3, 2, 2, 1), torch.tensor([0.2, 0.7]), embed)


def segment(name, n=3, sigma=0.0, sees=None):
    return Segment(
        name, torch.randn(2, n, 3), torch.zeros(n, 3, dtype=torch.long), torch.full((2,), sigma),
        sees=sees,
    )  # fmt: skip


def test_positions_follow_the_order_of_patches():
    positions = grid_positions((2, 2, 3), time_offset=-2)
    assert positions.dtype == torch.int64
    assert positions[:4].tolist() == [[-2, 0, 0], [-2, 0, 1], [-2, 0, 2], [-2, 1, 0]]
    assert positions[-1].tolist() == [-1, 1, 2]


def test_verbs_return_new_sequences():
    first = start()
    second = first.append(segment("source")).add("target", torch.ones(2, 4, 3))
    third = second.with_context(Context(torch.zeros(2, 1, 3)))
    assert first.names == ("target",)
    assert second.names == ("target", "source")
    torch.testing.assert_close(second["target"].tokens, first["target"].tokens + 1)
    assert second.context is None
    assert third.context is not None


def test_packing_keeps_order_and_one_level_per_segment():
    packed = start().append(segment("source", sigma=0.5)).pack()
    assert packed.tokens.shape == (2, 7, 3)
    assert packed.positions.shape == (7, 3)
    assert packed.layout.lengths == (4, 3)
    assert packed.layout.sees is None
    torch.testing.assert_close(packed.sigma, torch.tensor([[0.2, 0.5], [0.7, 0.5]]))


def test_visibility_is_by_index_in_packed_order():
    sequence = start().append(segment("b", sees=("b", "target"))).append(segment("c", sees=("c",)))
    assert sequence.pack().layout.sees == ((0, 1, 2), (0, 1), (2,))


def test_padding_of_one_segment_marks_it_alone():
    assert start().append(segment("b")).pack().valid is None
    padded = replace(segment("b"), valid=torch.tensor([[True] * 3, [True, False, False]]))
    valid = start().append(padded).pack().valid
    assert valid.tolist() == [[True] * 7, [True] * 5 + [False] * 2]


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda s: s["sauce"], KeyError, "no segment 'sauce'.*there are: target"),
        (lambda s: s.append(segment("target")), ValueError, "'target' is in the sequence already"),
        (lambda s: s.add("target", torch.ones(2, 5, 3)), ValueError, "add 5 tokens .* of 4"),
        (lambda s: s.append(segment("b", sees=("x",))).pack(), KeyError, "'b' is to see 'x'"),
    ],
    ids=["unknown", "twice", "length", "sees"],
)
def test_mistakes_are_named(act, error, message):
    with pytest.raises(error, match=message):
        act(start())
