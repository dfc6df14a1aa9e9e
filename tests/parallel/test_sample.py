"""Sampling on several ranks."""

import json

import pytest
import torch
from tests.parallel.nano import SYSTEMS, build, configured, edit_batch
from torch import distributed

from vedit.parallel.mesh import MeshSizes, build_plan


def sampled(tree: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents drawn with guidance, alone and with all ranks sharing the tokens."""
    system = build(json.loads(tree), torch.float32).eval()
    conditions = system.conditions(edit_batch(0))
    drawn = []
    world = distributed.get_world_size()
    for group in (None, build_plan(MeshSizes(context=world), "cpu").context_group):
        system.model.backbone.context_group = group
        drawn.append(system.sample(conditions, (2, 4, 3, 6, 6), seed=7, steps=3, guidance=2.0))
    return drawn[0], drawn[1]


@pytest.mark.parametrize("name", SYSTEMS)
def test_ranks_that_share_tokens_draw_the_latents_of_one(two, name):
    answers = two.run(sampled, json.dumps(configured(name, "full")))
    for alone, shared in answers:
        assert float(alone.std()) > 0.1
        torch.testing.assert_close(shared, alone, rtol=0, atol=2e-5 * float(alone.abs().max()))
        assert torch.equal(shared, answers[0][1])
