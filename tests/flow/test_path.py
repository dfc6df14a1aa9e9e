import torch
from hypothesis import given
from hypothesis import strategies as st

from vedit.flow.path import interpolate, predict_clean, shift, velocity

levels = st.floats(0, 1)
factors = st.floats(0.1, 20)


@given(st.lists(levels, min_size=1, max_size=4), st.integers(0, 1000))
def test_the_velocity_leads_back_to_the_clean_sample_from_anywhere(sigmas, seed):
    draw = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, len(sigmas), 3, 2, generator=draw, dtype=torch.float64)
    sigma = torch.tensor(sigmas, dtype=torch.float64)
    x_t = interpolate(clean, noise, sigma)
    torch.testing.assert_close(predict_clean(x_t, velocity(clean, noise), sigma), clean)


def test_the_velocity_is_the_derivative_of_the_path():
    clean, noise = torch.randn(2, 1, 5, dtype=torch.float64)
    sigma = torch.tensor([0.3], dtype=torch.float64)
    step = 0.25  # the path is straight, so any step gives its slope
    slope = (interpolate(clean, noise, sigma + step) - interpolate(clean, noise, sigma)) / step
    torch.testing.assert_close(slope, velocity(clean, noise))


@given(levels, factors)
def test_shift_has_an_inverse_and_keeps_the_ends(sigma, factor):
    assert abs(shift(shift(sigma, factor), 1 / factor) - sigma) < 1e-9
    assert shift(0.0, factor) == 0
    assert abs(shift(1.0, factor) - 1) < 1e-12


@given(levels, levels, st.floats(1, 20))
def test_shift_is_monotone_and_towards_noise(a, b, factor):
    assert shift(a, factor) >= a - 1e-12
    assert (shift(a, factor) <= shift(b, factor)) or a > b
