import pytest
import torch

from vedit.flow.noise_levels import ShiftedGrid
from vedit.flow.weighting import Bell, NoWeighting


@pytest.mark.parametrize(
    ("time", "weight"),
    [(1000, 0), (990, 0.06), (950, 0.32), (900, 0.63), (800, 1.21), (700, 1.67), (500, 2.08),
     (300, 1.67), (200, 1.21), (100, 0.64), (5, 0.03)],
)  # fmt: skip
def test_bell_on_the_default_grid(time, weight):
    # The expected values were read at the nearest point of the grid, which is coarse at low noise.
    assert float(Bell()(torch.tensor([time / 1000]))) == pytest.approx(weight, abs=0.01)


def test_bell_has_mean_one_on_its_grid_and_is_exactly_zero_at_pure_noise():
    weights = Bell()(ShiftedGrid().levels)
    assert float(weights.mean()) == pytest.approx(1, abs=1e-5)
    assert float(weights[0]) == pytest.approx(0, abs=1e-6)
    assert float(weights.min()) >= 0


def test_no_weighting_is_one():
    assert torch.equal(NoWeighting()(torch.rand(3)), torch.ones(3))
