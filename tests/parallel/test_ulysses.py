"""Several ranks that share a sequence compute what one rank computes, and its gradients."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.wan import randomised, tiny
from torch import Tensor, distributed, nn

from vedit.backbones.blocks import CrossBlock, DualCrossBlock, UnifiedBlock
from vedit.backbones.recompute import RecomputeBlocks
from vedit.backbones.wan import WanDiT
from vedit.errors import ConfigError
from vedit.parallel.ulysses import Share, check_heads, own_draws, share_of
from vedit.tokens import Context, Segment, TokenSequence, grid_positions

BLOCKS = {"cross": CrossBlock, "unified": UnifiedBlock, "dual": DualCrossBlock}


# --- who holds what ---------------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 7))
def test_every_token_is_held_once_and_shares_differ_by_one_at_most(lengths, ranks):
    total = sum(lengths)
    edges = tuple(r * (total // ranks) + min(r, total % ranks) for r in range(ranks + 1))
    shares = [Share("", rank, edges) for rank in range(ranks)]
    tokens = torch.arange(total)
    assert torch.equal(torch.cat([share.of(tokens, 0) for share in shares]), tokens)
    assert max(shares[0].counts) - min(shares[0].counts) <= 1
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    for share in shares:
        held = share.of(owner, 0)
        assert share.lengths(lengths) == tuple(held.bincount(minlength=len(lengths)).tolist())
        run, some = share.runs(lengths)
        again = torch.arange(len(lengths))[run].repeat_interleave(torch.tensor(some))
        assert torch.equal(again, held)


def test_heads_that_cannot_be_divided_are_refused_with_the_nearest_degrees_that_can():
    check_heads(24, 8)
    with pytest.raises(
        ConfigError,
        match=r"strategy.context: .* 24 .* among 5 ranks; the nearest that fit: 4 and 6",
    ):
        check_heads(24, 5)
    with pytest.raises(ConfigError, match=r"among 48 ranks; the nearest that fit: 24$"):
        check_heads(24, 48)


def one_head_too_few() -> str:
    model = tiny(num_attention_heads=3, attention_head_dim=6)
    model.context_group = distributed.group.WORLD
    try:
        model(sequence(model, (1, 2, 2), context=False))
    except ConfigError as error:
        return str(error)
    return ""


def test_a_model_refuses_a_group_that_its_heads_do_not_suit(two):
    for message in two.run(one_head_too_few):
        assert "the backbone's 3 attention heads cannot be divided among 2 ranks" in message


# --- the exchange -----------------------------------------------------------------------------


def exchanged(tokens: int) -> bool:
    """Whether heads, tokens and gather are what they say, forwards and backwards."""
    heads, rank, ranks = 4, distributed.get_rank(), distributed.get_world_size()
    share = share_of(tokens, heads, distributed.group.WORLD)
    x = torch.randn(2, tokens, heads, 3, generator=torch.Generator().manual_seed(0))
    x = x.double().requires_grad_()
    q, v = share.to_heads(share.of(x, 1), 2 * share.of(x, 1))
    mine = slice(rank * heads // ranks, (rank + 1) * heads // ranks)
    right = torch.equal(q, x[:, :, mine]) and torch.equal(v, 2 * q)
    right &= torch.equal(share.to_tokens(v), 2 * share.of(x, 1))
    whole = share.gather(share.to_tokens(v).flatten(2))
    right &= torch.equal(whole, 2 * x.flatten(2))
    weight = torch.arange(whole.numel(), dtype=torch.float64).view_as(whole)
    (whole * weight).sum().backward()
    distributed.all_reduce(x.grad)
    return right and torch.equal(x.grad / ranks, 2 * weight.view_as(x))


@pytest.mark.parametrize("tokens", [12, 7, 1])
def test_exchanges_and_their_gradients(two, tokens):
    assert two.run(exchanged, tokens) == [True] * 2


# --- the backbone -----------------------------------------------------------------------------


def sequence(
    model: WanDiT, grid: tuple[int, int, int], context: bool = True, sees: bool = False
) -> TokenSequence:
    """A padded prefix, the target and a source, all of their own noise level."""
    generator = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def valid(length: int) -> Tensor:
        return torch.arange(length) < torch.tensor([[length], [length - 2]])

    t, rows, columns = grid
    x, source = draw(2, 2, 4, t, 2 * rows, 2 * columns)
    start = TokenSequence.of_target(x, torch.tensor([0.3, 0.9]).to(dtype), model.embed)
    words = Segment(
        "words",
        draw(2, 3, model.spec.width),
        torch.tensor([[i - 4, 0, 0] for i in range(3)]),
        torch.zeros(2, dtype=dtype),
        valid=valid(3).flip(1),
    )
    tokens, grid = model.embed(source)
    level = torch.tensor([0.0, 0.2]).to(dtype)
    seen = ("source", "words") if sees else None
    after = Segment("source", tokens, grid_positions(grid), level, grid, sees=seen)
    found = TokenSequence((words, *start.segments), model.embed).append(after)
    if not context:
        return found
    image = Context(draw(2, 5, model.spec.width), valid(5))
    tokens = draw(2, 6, model.spec.width)
    return found.with_context(Context(tokens, valid(6), {"image": image}))


def relative(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference of a tensor, relative to the largest number in it."""
    assert ours.keys() == theirs.keys()
    gaps = {n: (ours[n] - t).detach().abs().max() for n, t in theirs.items()}
    return max(float(gaps[n] / t.detach().abs().max().clamp(min=1e-30)) for n, t in theirs.items())


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def differences(
    block: str, grid: tuple[int, int, int], sees: bool = False, **backbone: Any
) -> tuple[float, float, list[int]]:
    """Of the velocity and of the mean gradients against this rank alone; tokens in each block."""
    model = tiny(num_attention_heads=4, attention_head_dim=12, block=BLOCKS[block], **backbone)
    model.double()
    randomised(model)
    arguments = {"grid": grid, "context": block != "unified", "sees": sees}
    weight = torch.randn(2, 4, grid[0], 2 * grid[1], 2 * grid[2], dtype=torch.float64)
    distributed.broadcast(weight, 0)

    alone = model(sequence(model, **arguments))
    (alone * weight).mean().backward()
    expected = gradients(model)

    model.context_group = distributed.group.WORLD
    given: list[int] = []
    for part in model.blocks:
        part.ffn.register_forward_hook(lambda _, inputs, out: given.append(inputs[0].shape[1]))
    shared = model(sequence(model, **arguments))
    (shared * weight).mean().backward()
    found = gradients(model)
    for name in expected:
        distributed.all_reduce(found[name])
        found[name] /= distributed.get_world_size()
    return relative({"": shared}, {"": alone}), relative(found, expected), given


GRID = (3, 2, 3)  # 18 tokens of the target, 18 of the source, 3 words: 39, uneven on 2 and on 4


def check(answers: list[tuple[float, float, list[int]]], given: list[list[int]]) -> None:
    for velocity, gradient, _ in answers:
        assert velocity < 1e-12
        assert gradient < 1e-9
    assert [tokens for *_, tokens in answers] == given


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("sees", [False, True])
def test_two_ranks_give_the_velocity_and_the_gradients_of_one(two, block, sees):
    check(two.run(differences, block, GRID, sees), [[20] * 2, [19] * 2])


def test_recomputing_a_block_repeats_its_exchanges(two):
    answers = two.run(partial(differences, "cross", GRID, recompute=RecomputeBlocks()))
    check(answers, [[20] * 4, [19] * 4])


@pytest.mark.slow
def test_four_ranks_do_too(four):
    check(four.run(differences, "cross", GRID), [[10] * 2, [10] * 2, [10] * 2, [9] * 2])


def test_a_rank_without_any_token_of_the_target(two):
    """Three words, a target of one token, its source: the first three are the first rank's."""
    check(two.run(differences, "cross", (1, 1, 1)), [[3] * 2, [2] * 2])


def without_tokens() -> tuple[Tensor, dict[str, Tensor]]:
    model = tiny(num_attention_heads=2, attention_head_dim=6)
    model.context_group = distributed.group.WORLD
    start = TokenSequence.of_target(torch.ones(1, 4, 1, 2, 2), torch.ones(1), model.embed)
    model(start).sum().backward()
    return model(start).detach(), gradients(model)


def test_a_rank_without_any_token_has_gradients_of_zero(two):
    """So that whoever averages gradients finds the same parameters on every rank."""
    (first, some), (second, none) = two.run(without_tokens)
    assert torch.equal(first, second)
    assert some.keys() == none.keys()
    assert some["blocks.0.ffn.net.2.weight"].any()
    assert not any(gradient.any() for gradient in none.values())


# --- memory and draws -------------------------------------------------------------------------


def kept_numbers() -> tuple[int, int]:
    """Numbers that autograd keeps for the backward pass, without weights, alone and shared."""
    model = tiny(num_attention_heads=4, attention_head_dim=12)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        place = x.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = x.untyped_storage().nbytes()
        return x

    found = []
    for group in (None, distributed.group.WORLD):
        model.context_group = group
        given = sequence(model, (4, 8, 8))
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            out = model(given)
        found.append(sum(kept.values()))
        del out
    return found[0], found[1]


def test_a_rank_keeps_its_share_of_the_activations(two):
    for alone, shared in two.run(kept_numbers):
        assert 0.45 * alone < shared < 0.6 * alone


def draws(inside: int) -> tuple[list[float], list[float]]:
    """What is drawn inside and afterwards, where each rank draws another number of times."""
    torch.manual_seed(3)
    share = share_of(8, 2, distributed.group.WORLD)
    with own_draws(share, torch.device("cpu")):
        drawn = torch.rand(inside + distributed.get_rank()).tolist()
    return drawn[:inside], torch.rand(2).tolist()


def test_ranks_draw_apart_inside_and_alike_afterwards(two):
    (first, after), (second, later) = two.run(draws, 3)
    assert not set(first) & set(second)
    assert after == later
