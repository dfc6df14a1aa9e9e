import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vedit.errors import ConfigError
from vedit.flow.noise_levels import LogitNormal, Mode, ShiftedGrid, Uniform
from vedit.flow.path import shift

DRAWS = 40_000
shifts = st.floats(0.2, 20.0)
families = st.one_of(
    st.builds(Uniform, shifts),
    st.builds(LogitNormal, st.floats(-2, 2), st.floats(0.1, 3), shifts),
    st.builds(Mode, st.floats(-1, 1.75), shifts),
    st.builds(ShiftedGrid, st.integers(1, 1200), shifts, st.booleans()),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(families, st.integers(1, 64), st.integers(0, 2**31))
def test_levels_are_levels_and_depend_on_the_generator_alone(family, batch, seed):
    levels = family.sample(batch, generator(seed))
    assert levels.shape == (batch,)
    assert levels.dtype == torch.float32
    assert levels.min() >= 0
    assert levels.max() <= 1
    torch.rand(3)  # the global generator plays no part
    assert torch.equal(levels, family.sample(batch, generator(seed)))


@pytest.mark.parametrize(
    ("family", "median"),
    [
        (Uniform(), 0.5),
        (Uniform(shift=5.0), shift(0.5, 5.0)),
        (LogitNormal(), 0.5),
        (LogitNormal(mean=1.0, shift=3.0), shift(1 / (1 + math.exp(-1)), 3.0)),
        (Mode(), 0.5),
        (ShiftedGrid(), 0.834),
    ],
)
def test_median(family, median):
    levels = family.sample(DRAWS, generator())
    assert float(levels.median()) == pytest.approx(median, abs=0.01)


def test_spread():
    """Standard deviations: uniform 1/sqrt(12); mode is narrower; a narrow logit even more."""
    std = [
        float(family.sample(DRAWS, generator()).std())
        for family in (Uniform(), Mode(), LogitNormal(std=0.3))
    ]
    assert std[0] == pytest.approx(1 / math.sqrt(12), abs=0.005)
    assert std[0] > std[1] > std[2]
    assert std[2] == pytest.approx(0.3 / 4, abs=0.005)  # the logistic's slope at 0 is 1/4


def test_the_shifted_grid_of_a_thousand_steps():
    """Median 0.834 and mean 0.748; 82.7 % of the points above 0.512."""
    levels = ShiftedGrid().levels
    assert len(levels) == 1000
    assert float(levels[0]) == 1.0
    # The middle of an even number of points lies between two of them.
    assert float(levels.double().quantile(0.5)) == pytest.approx(0.8335, abs=6e-4)
    assert float(levels.mean()) == pytest.approx(0.748, abs=5e-4)
    assert float((levels > 0.512).float().mean()) == pytest.approx(0.827, abs=1e-3)


def test_rounding_to_bfloat16_leaves_294_levels():
    rounded = ShiftedGrid(round_to_bf16=True).levels
    assert len(rounded.unique()) == 294
    exact = ShiftedGrid().levels
    assert float((rounded - exact).abs().max()) <= 0.0045  # neighbours in bfloat16 are 4 apart
    assert torch.isin(rounded, exact).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Uniform(shift=0), "shift: must be above 0, got 0"),
        (lambda: LogitNormal(std=-1), "std: must be above 0"),
        (lambda: Mode(scale=2), r"scale: must be in \[-1, 1.75\], got 2"),
        (lambda: ShiftedGrid(steps=0), "steps: must be above 0"),
    ],
)
def test_impossible_values_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
