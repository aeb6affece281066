"""Latency statistics, against values computed by hand and trtexec's rule in single precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit_export.profiling.latency import percentile, summarise

TIMES = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=300)


def test_summary_computed_by_hand():
    # Sorted 1 2 3 4 5 6 7 8 9 55: mean 10, median 5.5. Variance: sum of squares 3310 / 10 - 100 = 231.
    found = summarise([55, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert (found.queries, found.mean_ms, found.min_ms, found.p50_ms) == (10, 10, 1, 5.5)
    # p90 excludes one of ten values; p95 and p99 exclude none, since half a query is rounded down.
    assert (found.p90_ms, found.p95_ms, found.p99_ms) == (9, 55, 55)
    assert found.cv == pytest.approx(100 * math.sqrt(231) / 10)


@pytest.mark.parametrize(
    ("count", "percent", "index"),
    [
        (1, 99, 0),
        (10, 90, 8),  # in double precision (1 - 0.9) * 10 is below 1, and the index would be 9
        (100, 99, 99),  # in double precision (1 - 0.99) * 100 is above 1, and the index would be 98
        (100, 90, 89),
        (200, 99, 198),
        (1000, 95, 949),
        (7, 0, 0),
        (7, 100, 6),
    ],
)
def test_percentile_is_at_the_index_of_trtexec(count, percent, index):
    assert percentile(range(count), percent) == index


@given(TIMES)
def test_percentiles_are_ordered_and_are_measured_values(times):
    found = summarise(times)
    assert found.min_ms <= found.p50_ms <= found.p90_ms <= found.p95_ms <= found.p99_ms <= max(times)
    assert {found.p90_ms, found.p95_ms, found.p99_ms} <= set(times)
    assert found.mean_ms == pytest.approx(np.mean(times))
    assert found.cv == pytest.approx(100 * np.std(times) / np.mean(times), abs=1e-6)
