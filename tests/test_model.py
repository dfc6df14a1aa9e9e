import pytest
import torch
from tests.wan import TINY, pair, tiny

from vedit.backbones.blocks import Block, BlockShape
from vedit.backbones.wan import WanDiT
from vedit.batch import Conditions
from vedit.conditioning.append import AppendTokens
from vedit.conditioning.cross import CrossAttend
from vedit.errors import ConfigError, WeightsError
from vedit.model import EditModel, materialise, shapes_only
from vedit.tokens import Context


class SelfOnly(Block):
    cross_attention = False

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(shape.width))

    def forward(self, tokens, around):
        return tokens * self.scale


def test_slots_act_in_their_order_and_null_is_off():
    slots = {"source": AppendTokens, "mask": None, "reference": AppendTokens}
    model = EditModel.build(tiny, slots)
    assert list(model.injections) == ["source", "reference"]
    given = Conditions(
        {"reference": torch.randn(1, 4, 1, 4, 4), "source": torch.randn(1, 4, 2, 4, 4)},
        Context(torch.randn(1, 3, 64)),
    )
    sequence = model.sequence(torch.randn(1, 4, 2, 4, 4), torch.rand(1), given)
    assert sequence.names == ("target", "source", "reference")
    assert sequence.context is None, "no slot takes the instruction"


def test_an_injection_the_block_cannot_take_names_its_slot():
    with pytest.raises(ConfigError, match=r"^model\.instruction: CrossAttend needs blocks"):
        EditModel.build(lambda: tiny(block=SelfOnly), {"instruction": CrossAttend})


def test_materialise_loads_weights_without_random_ones(tmp_path):
    _, theirs = pair()
    theirs.save_pretrained(tmp_path)
    model = materialise(lambda: tiny_lazy(str(tmp_path)))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name


def tiny_lazy(folder):
    return WanDiT(**TINY, weights=folder)


def test_shapes_alone_are_built_once_and_draw_nothing():
    state = torch.random.get_rng_state()
    made = []
    with shapes_only():
        model = materialise(lambda: made.append(torch.nn.Linear(3, 2)) or made[-1])
    assert len(made) == 1
    assert model.weight.is_meta
    assert model.weight.shape == (2, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.nn.init.zeros_(torch.ones(2)).sum() == 0  # as it was


def test_materialise_without_weights_initialises():
    model = materialise(lambda: tiny_lazy(None))
    assert all(not p.is_meta for p in model.parameters())
    assert float(model.blocks[0].attn1.to_q.weight.detach().std()) > 0


def test_weights_that_are_nowhere_are_a_one_line_error(tmp_path):
    with pytest.raises(WeightsError) as error:
        materialise(lambda: tiny_lazy(str(tmp_path / "nothing")))
    assert "nothing" in str(error.value)
    assert "\n" not in str(error.value)
