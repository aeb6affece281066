"""Axes of charts: round numbers as ticks, and positions between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Distances between ticks, times a power of ten."""


@dataclass(frozen=True)
class ChartAxis:
    """The range of an axis and its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    is_logarithmic: bool = False

    def share(self, value: float) -> float:
        """The position of a value: 0 at the low end, 1 at the high end."""
        if self.is_logarithmic:
            return (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return (value - self.low) / (self.high - self.low)

    def label(self, tick: float) -> str:
        """A tick as text: 1,000, 0.25, 1e-05."""
        if tick and not 1e-3 <= abs(tick) < 1e6:
            return f"{tick:.0e}" if self.is_logarithmic else f"{tick:.3g}"
        return f"{round(tick, 6):,.6g}" if abs(tick) < 1e5 else f"{tick:,.0f}"


def linear_axis(low: float, high: float, most: int = 6) -> ChartAxis:
    """An axis with at most `most` ticks at round numbers, which includes the range.

    >>> linear_axis(61.5, 76.9).ticks
    (60.0, 65.0, 70.0, 75.0, 80.0)
    """
    if low == high:  # a single value
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    distance = _distance(high - low, most - 1)
    first, last = math.floor(low / distance + 1e-9), math.ceil(high / distance - 1e-9)
    ticks = tuple(round(count * distance, 12) for count in range(first, last + 1))
    return ChartAxis(ticks[0], ticks[-1], ticks)


def logarithmic_axis(low: float, high: float) -> ChartAxis:
    """An axis with a tick at each power of ten, or at some of many; `low` is above 0.

    >>> logarithmic_axis(0.02, 30.0).ticks
    (0.01, 0.1, 1.0, 10.0, 100.0)
    """
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    every = math.ceil((last - first) / 5)
    ticks = tuple(10.0**power for power in range(first, last + 1, every))
    return ChartAxis(10.0**first, 10.0**last, ticks, is_logarithmic=True)


def _distance(length: float, most: int) -> float:
    """The smallest round distance that covers `length` in at most `most` steps, with one to spare at each end."""
    power = 10.0 ** math.floor(math.log10(length / most))
    return next(step * power for step in STEPS if step * power * most >= length)
