"""Mean and spread of a figure over the repetitions of an arm, and paired differences between two arms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (divisor n - 1; None for n = 1), and number of values."""

    mean: float
    deviation: float | None
    count: int

    def text(self, digits: int = 2) -> str:
        """The mean with its standard deviation: "81.52 ± 0.34"."""
        spread = "" if self.deviation is None else f" ± {self.deviation:,.{digits}f}"
        return f"{self.mean:,.{digits}f}{spread}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"mean": self.mean, "standard_deviation": self.deviation, "n": self.count}


def spread(values: Iterable[float]) -> Spread | None:
    """Mean and spread of the finite values; None if there are none.

    >>> spread([1.0, 2.0, 6.0])
    Spread(mean=3.0, deviation=2.6457513110645907, count=3)
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    mean = statistics.fmean(finite)
    return Spread(mean, statistics.stdev(finite) if len(finite) > 1 else None, len(finite))


@dataclass(frozen=True)
class ArmDifference:
    """Difference of an arm from the baseline.

    If `is_paired`, `of_pairs` is the spread of the differences between runs of the same seed; otherwise no seed is in
    both arms, and it is the difference of the means, with n = 0 and no deviation.
    """

    of_pairs: Spread
    is_paired: bool

    def text(self, digits: int = 2) -> str:
        """The difference with its sign: "+1.24 ± 0.31"; a "u" marks one that is not paired."""
        sign = "+" if self.of_pairs.mean >= 0 else ""
        return f"{sign}{self.of_pairs.text(digits)}{'' if self.is_paired else ' u'}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.of_pairs.as_dict(), "paired": self.is_paired}


def difference(arm: Mapping[Any, float], baseline: Mapping[Any, float]) -> ArmDifference | None:
    """The difference of two arms, whose values are by seed; None if an arm has no finite value.

    >>> difference({0: 3.0, 1: 5.0}, {1: 4.0, 0: 1.0, 2: 9.0})
    Difference(of_pairs=Spread(mean=1.5, deviation=0.7071067811865476, count=2), is_paired=True)
    """
    ours, theirs = ({key: value for key, value in each.items() if math.isfinite(value)} for each in (arm, baseline))
    if not ours or not theirs:
        return None
    paired = spread(ours[key] - theirs[key] for key in ours if key in theirs)
    if paired is not None:
        return ArmDifference(paired, is_paired=True)
    return ArmDifference(
        Spread(statistics.fmean(ours.values()) - statistics.fmean(theirs.values()), None, 0), is_paired=False
    )
