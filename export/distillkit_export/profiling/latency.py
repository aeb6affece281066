"""Latency statistics by trtexec's definitions, and the speed-up of one configuration over another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95


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


@dataclass(frozen=True)
class Ratio:
    """Speed-up over the baseline, per round: the median and its 95 % confidence interval."""

    median: float
    low: float
    high: float
    rounds: int


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


def compare(own: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Speed-up from the round medians of two configurations, with a bootstrap interval over rounds.

    Comparing within a round cancels slowdowns that affected both.
    """
    ratios = np.asarray(baseline, np.float64) / np.asarray(own, np.float64)
    draw = np.random.default_rng(0)  # a fixed seed, so that equal measurements give equal intervals
    medians = np.median(draw.choice(ratios, (RESAMPLES, len(ratios))), axis=1)
    low, high = np.percentile(medians, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))
