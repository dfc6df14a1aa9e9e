import pytest
import torch

from vedit.backbones.rope import axis_widths, plain_rotate, rotate, rotation
from vedit.tokens import grid_positions


@pytest.mark.parametrize("head", [8, 20, 32, 64, 128])
def test_the_axes_share_a_head(head):
    widths = axis_widths(head)
    assert sum(widths) == head
    assert all(width % 2 == 0 for width in widths)


def test_a_rotation_keeps_lengths_and_is_undone_by_its_opposite():
    positions = grid_positions((2, 3, 2), time_offset=5)
    x = torch.randn(2, 12, 2, 32, dtype=torch.float64)
    turned = rotate(x, rotation(positions, 32))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert not torch.allclose(turned, x)
    torch.testing.assert_close(rotate(turned, rotation(-positions, 32)), x)


@pytest.mark.parametrize("offset", [(7, 0, 0), (-40, 3, -2)])
def test_scores_depend_on_differences_of_positions_alone(offset):
    positions = grid_positions((2, 3, 2))
    q, k = torch.randn(2, 1, 12, 1, 32, dtype=torch.float64)

    def scores(where):
        table = rotation(where, 32)
        return torch.einsum("bnhd,bmhd->bhnm", rotate(q, table), rotate(k, table))

    moved = scores(positions + torch.tensor(offset))
    torch.testing.assert_close(moved, scores(positions), rtol=0, atol=1e-12)
    assert not torch.allclose(scores(2 * positions), scores(positions))


def test_each_axis_turns_channels_of_its_own():
    still = rotation(torch.zeros(1, 3, dtype=torch.long), 32)
    for axis, channels in enumerate([range(6), range(6, 11), range(11, 16)]):
        position = torch.zeros(1, 3, dtype=torch.long)
        position[0, axis] = 3
        changed = (rotation(position, 32) != still)[0].any(-1).nonzero().flatten().tolist()
        assert changed == list(channels)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_complex_and_real_numbers_agree(dtype):
    table = rotation(grid_positions((2, 3, 2)), 32)
    table = table.to(torch.promote_types(dtype, torch.float32))
    x, weight = torch.randn(2, 2, 12, 2, 32).to(dtype)
    gradients = []
    for turn in (rotate, plain_rotate):
        leaf = x.clone().requires_grad_()
        out = turn(leaf, table)
        assert out.dtype == dtype
        (out * weight).sum().backward()
        gradients.append((out.detach(), leaf.grad))
    close = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, **close)
