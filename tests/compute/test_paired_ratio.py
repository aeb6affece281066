"""Ratios of interleaved rounds, and their bootstrap intervals."""

import numpy as np

from distillkit.compute.paired_ratio import compare


def test_ratio_within_rounds_cancels_common_slowdowns():
    slow_down = np.array([1.0, 3.0, 1.5, 9.0, 2.0])
    found = compare(2 * slow_down, 5 * slow_down)
    assert (found.median, found.low, found.high, found.rounds) == (2.5, 2.5, 2.5, 5)


def test_interval_of_the_ratio_widens_with_the_spread_and_contains_the_median():
    narrow = compare([1.0] * 7, [1.0, 1.01, 0.99, 1.0, 1.0, 1.01, 0.99])
    wide = compare([1.0] * 7, [1.0, 1.5, 0.5, 1.1, 0.9, 1.5, 0.5])
    assert narrow.low <= narrow.median <= narrow.high
    assert wide.high - wide.low > narrow.high - narrow.low
    assert compare([1.0] * 7, [1.0, 1.5, 0.5, 1.1, 0.9, 1.5, 0.5]) == wide
