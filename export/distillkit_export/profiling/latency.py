"""Latency statistics by trtexec's definitions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Latencies in milliseconds. `cv` is the coefficient of variation in percent."""

    queries: int
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    cv: float


def percentile(ascending: Sequence[float], percent: float) -> float:
    """Percentile by trtexec's rule: no interpolation, and the number of values above it is rounded down.

    The index is max(n - 1 - int((1 - percent / 100) * n), 0) in single precision, as in trtexec: double precision gives
    another index for 90 % of ten values.

    >>> percentile([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 90)
    9
    """
    excluded = int((np.float32(1) - np.float32(percent) / np.float32(100)) * np.float32(len(ascending)))
    return ascending[max(len(ascending) - 1 - excluded, 0)]


def summarise(milliseconds: Sequence[float]) -> Summary:
    """Statistics of at least one latency. p50 is the median: for an even number, the mean of the middle two."""
    ascending = sorted(milliseconds)
    mean = math.fsum(ascending) / len(ascending)
    return Summary(
        queries=len(ascending),
        mean_ms=mean,
        min_ms=ascending[0],
        p50_ms=statistics.median(ascending),
        p90_ms=percentile(ascending, 90),
        p95_ms=percentile(ascending, 95),
        p99_ms=percentile(ascending, 99),
        cv=100 * statistics.pstdev(ascending) / mean if mean else 0.0,
    )
