import pytest
import torch

from vedit.errors import ConfigError
from vedit.flow.guidance import guided
from vedit.flow.path import align, velocity
from vedit.flow.sampler import Euler, UniPC, euler_grid

SAMPLERS = [Euler(7, 5.0), Euler(7, 5.0, "even"), UniPC(7, 5.0)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["euler", "euler-even", "unipc"])
def test_a_straight_path_is_travelled_exactly(sampler):
    clean, noise = torch.randn(2, 2, 3, 4)
    out = sampler.sample(lambda x, sigma: velocity(clean, noise), noise)
    torch.testing.assert_close(out, clean, rtol=0, atol=2e-5)


def test_euler_on_a_known_flow():
    """v = x multiplies x by (1 + d sigma) at each step."""
    noise = torch.randn(2, 3)
    steps = euler_grid(5, 3.0).diff()
    out = Euler(5, 3.0).sample(lambda x, sigma: x, noise)
    torch.testing.assert_close(out, noise * (1 + steps).prod())


def error_on_a_gaussian(sampler):
    """For data N(0, s^2) the velocity is linear in x, and noise e becomes s e exactly."""
    s = 0.5

    def exact(x, sigma):
        sigma = align(sigma, x)
        variance = (1 - sigma) ** 2 * s**2 + sigma**2
        return x * (sigma - (1 - sigma) * s**2) / variance

    noise = torch.ones(1, 1)
    return abs(float(sampler.sample(exact, noise)) - s)


def test_euler_converges_with_order_one_and_unipc_is_closer():
    coarse, fine = (error_on_a_gaussian(Euler(n, 1.0, "even")) for n in (40, 80))
    assert coarse / fine == pytest.approx(2, abs=0.1)
    assert error_on_a_gaussian(UniPC(40, 1.0)) < coarse / 4


def test_every_sample_of_the_batch_is_told_the_level():
    seen = []

    def remember(x, sigma):
        seen.append(sigma)
        return torch.zeros_like(x)

    Euler(3, 1.0, "even").sample(remember, torch.randn(2, 3))
    assert [s.tolist() for s in seen] == [
        pytest.approx([level] * 2) for level in (1.0, 2 / 3, 1 / 3)
    ]


def test_guidance_asks_once_for_both_branches():
    calls = []

    def pair(x, sigma):
        calls.append((x.shape[0], sigma.shape[0]))
        return torch.cat([x[:2] + 1, x[2:]])

    x = torch.randn(2, 3)
    out = guided(pair, 4.0)(x, torch.ones(2))
    torch.testing.assert_close(out, x + 4)
    assert calls == [(4, 4)]


def test_impossible_values_are_refused():
    with pytest.raises(ConfigError, match="steps: must be above 0, got 0"):
        Euler(steps=0)
    with pytest.raises(ConfigError, match="spacing: 'odd' is neither"):
        Euler(spacing="odd")
