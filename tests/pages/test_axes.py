"""Axes: round ticks that include every value."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit.pages.axes import STEPS, linear_axis, logarithmic_axis

NUMBERS = st.floats(-1e12, 1e12).filter(lambda value: value == 0 or abs(value) > 1e-9)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, (0, 20, 40, 60, 80, 100)),
        (61.5, 76.9, (60, 65, 70, 75, 80)),
        (1.6, 2.0, (1.6, 1.7, 1.8, 1.9, 2.0)),
        (18, 72, (0, 20, 40, 60, 80)),
        (5, 5, (4.4, 4.6, 4.8, 5, 5.2, 5.4, 5.6)),
        (0, 0, (-1, -0.5, 0, 0.5, 1)),
    ],
)
def test_ticks_of_known_ranges(low, high, ticks):
    assert linear_axis(low, high).ticks == pytest.approx(ticks)


@given(NUMBERS, NUMBERS)
def test_an_axis_includes_its_range_with_few_round_ticks(one, other):
    low, high = sorted((one, other))
    axis = linear_axis(low, high)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= low <= high <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 8
    distance = axis.ticks[1] - axis.ticks[0]
    mantissa = distance / 10 ** math.floor(math.log10(distance))
    # Ticks far from 0 are rounded to float's precision.
    if abs(axis.low) < 1e6 * distance:
        assert min(abs(mantissa / step - 1) for step in (*STEPS, 10.0, 1.0)) < 1e-3


@given(st.floats(1e-12, 1e12), st.floats(1e-12, 1e12))
def test_a_logarithmic_axis_includes_its_range(one, other):
    low, high = sorted((one, other))
    axis = logarithmic_axis(low, high)
    assert axis.low <= low * (1 + 1e-6)
    assert high <= axis.high * (1 + 1e-6)
    assert all(math.log10(tick) == pytest.approx(round(math.log10(tick))) for tick in axis.ticks)


@pytest.mark.parametrize(
    ("tick", "label"),
    [(0.0, "0"), (0.1 + 0.2, "0.3"), (2500.0, "2,500"), (120_000.0, "120,000"), (1e-5, "1e-05"), (2e7, "2e+07")],
)
def test_labels(tick, label):
    assert linear_axis(0, 1).label(tick) == label
