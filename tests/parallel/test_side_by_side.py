"""Samples of different shapes side by side, shared by the ranks of a context group."""

from tests.parallel.ranks import Ranks
from tests.test_packing import alone, model, samples
from torch import distributed


def differences(shapes: list[tuple[int, int, int]]) -> list[float]:
    """Of velocities and gradients on this rank from those of each sample alone on one rank."""
    edit = model()
    batch = samples(shapes, padded=True)
    expected = alone(edit, *batch)
    sum(out.square().sum() for out in expected).backward()
    wanted = {n: p.grad.clone() for n, p in edit.named_parameters() if p.grad is not None}
    edit.zero_grad()
    edit.backbone.context_group = distributed.group.WORLD
    found = edit(*batch)
    sum(out.square().sum() for out in found).backward()
    worst = [float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)]
    for name, parameter in edit.named_parameters():
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad, distributed.ReduceOp.AVG)
            worst.append(float((parameter.grad - wanted[name]).abs().max()))
    return worst


def test_two_ranks_give_each_sample_what_it_gets_alone():
    """The ranks' shares end inside a sample, so that one holds none of the last."""
    with Ranks(2) as ranks:
        for worst in ranks.run(differences, [(2, 4, 6), (1, 8, 4), (3, 4, 4)]):
            assert len(worst) > 40
            assert max(worst) < 1e-10
