"""Mean, sample standard deviation and paired differences, by hand and against NumPy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit.comparison.spread import ArmDifference, Spread, difference, spread

VALUES = st.floats(-1e3, 1e3)


def test_spread_by_hand():
    # Mean 6; squared deviations 4 + 1 + 0 + 1 + 4 = 10 over n - 1 = 4.
    assert spread([4, 5, 6, 7, 8]) == Spread(6.0, math.sqrt(2.5), 5)


def test_one_value_has_no_deviation():
    assert spread([5.0]) == Spread(5.0, None, 1)
    assert spread([5.0]).text() == "5.00"


def test_values_that_are_not_finite_do_not_count():
    assert spread([1.0, math.nan, 3.0, math.inf]) == Spread(2.0, math.sqrt(2.0), 2)
    assert spread([math.nan]) is None
    assert spread([]) is None


@given(st.lists(VALUES, min_size=2, max_size=9))
def test_spread_is_that_of_numpy(values):
    found = spread(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-9)


def test_paired_difference_by_hand():
    # Seeds 0, 1 and 2 are in both: 81 - 80 = 1, 84 - 81 = 3, 80 - 78 = 2; mean 2, deviation 1. Without pairing, the
    # mean of the arm's four runs would be 83.75.
    arm = {0: 81.0, 1: 84.0, 2: 80.0, 3: 90.0}
    baseline = {2: 78.0, 0: 80.0, 1: 81.0, 7: 10.0}
    assert difference(arm, baseline) == ArmDifference(Spread(2.0, 1.0, 3), is_paired=True)
    assert difference(arm, baseline).text() == "+2.00 ± 1.00"


def test_a_difference_without_a_common_seed_is_one_of_means():
    found = difference({0: 81.0, 1: 83.0}, {2: 85.0})
    assert found == ArmDifference(Spread(-3.0, None, 0), is_paired=False)
    assert found.text() == "-3.00 u"


@pytest.mark.parametrize(("arm", "baseline"), [({}, {0: 1.0}), ({0: 1.0}, {}), ({0: math.nan}, {0: 1.0})])
def test_no_difference_without_values(arm, baseline):
    assert difference(arm, baseline) is None


@given(st.dictionaries(st.integers(0, 5), VALUES, min_size=1), VALUES)
def test_a_shifted_arm_differs_by_the_shift(values, shift):
    found = difference({seed: value + shift for seed, value in values.items()}, values)
    assert found.of_pairs.mean == pytest.approx(shift, abs=1e-9)
    assert (found.of_pairs.deviation or 0) == pytest.approx(0, abs=1e-9)


@given(st.dictionaries(st.integers(0, 5), VALUES), st.dictionaries(st.integers(0, 5), VALUES))
def test_a_difference_changes_its_sign_with_the_order(one, other):
    there, back = difference(one, other), difference(other, one)
    assert (there is None) == (back is None)
    if there is not None:
        assert there.of_pairs.mean == pytest.approx(-back.of_pairs.mean)
        assert there.of_pairs.count == back.of_pairs.count
