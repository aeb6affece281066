"""What many measured latencies say together, by the definitions of trtexec, and how two configurations compare."""

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
    """How many times as fast as the baseline, round by round: the median, and the 95 % interval of that median."""

    median: float
    low: float
    high: float
    rounds: int


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The value at trtexec's index: no interpolation, and the share above it is rounded down.

    The index is max(n - 1 - int((1 - percent / 100) * n), 0), in single precision as there: in double precision 90 % of
    ten values would be another one.

    >>> percentile([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 90)
    9
    """
    excluded = int((np.float32(1) - np.float32(percent) / np.float32(100)) * np.float32(len(ascending)))
    return ascending[max(len(ascending) - 1 - excluded, 0)]


def summarise(milliseconds: Sequence[float]) -> Summary:
    """All figures of at least one latency. p50 is the median, the mean of the two in the middle."""
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
    """Medians of the same rounds: what a round did to both cancels out. The interval resamples the rounds."""
    ratios = np.asarray(baseline, np.float64) / np.asarray(own, np.float64)
    draw = np.random.default_rng(0)
    medians = np.median(draw.choice(ratios, (RESAMPLES, len(ratios))), axis=1)
    low, high = np.percentile(medians, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))
