"""Ratio of two measurements that were interleaved in rounds, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """Speed-up over the baseline, per round: the median and its 95 % confidence interval."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def compare(own: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Speed-up from the round medians of two configurations, with a bootstrap interval over rounds.

    Comparing within a round cancels slowdowns that affected both.
    """
    ratios = np.asarray(baseline, np.float64) / np.asarray(own, np.float64)
    draw = np.random.default_rng(0)  # a fixed seed, so that equal measurements give equal intervals
    medians = np.median(draw.choice(ratios, (RESAMPLES, len(ratios))), axis=1)
    low, high = np.percentile(medians, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))
