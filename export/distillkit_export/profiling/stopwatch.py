"""Warm up until it is steady, then measure for a while. What is timed and the clock are given, so both can be false."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

Clock = Callable[[], float]

LEAST_WARM_UP_S, MOST_WARM_UP_S = 0.2, 4.0
"""trtexec warms up for 200 ms; here it goes on until it is steady, or this long."""
WINDOW_QUERIES, WINDOW_S = 3, 0.05
STEADY = 0.025
"""Windows whose medians differ by less than this share, each from the one before, agree."""
SETTLE = 0.05
"""The share of a round that is thrown away at its start: others have run in between."""


class Timed(Protocol):
    """Something that can be computed a number of times in a row, with the milliseconds of each."""

    def time(self, queries: int) -> Sequence[float]: ...


@dataclass(frozen=True)
class WarmUp:
    """How long it took, the median of its last window, and whether it became steady."""

    seconds: float
    queries: int
    last_ms: float
    steady: bool


@dataclass(frozen=True)
class Round:
    """The latencies of one round, the time from its start to its end, and what was computed before to settle."""

    milliseconds: tuple[float, ...]
    wall_s: float
    settled: int


def warm_up(timed: Timed, clock: Clock = perf_counter, most_s: float = MOST_WARM_UP_S) -> WarmUp:
    """Compute until three windows in a row agree, for at least 0.2 seconds; after `most_s` give up."""
    start, queries, medians = clock(), 0, [math.inf, math.inf]
    while True:
        window: list[float] = []
        begun = clock()
        while len(window) < WINDOW_QUERIES or clock() - begun < WINDOW_S:
            window += timed.time(1)
        queries += len(window)
        medians.append(statistics.median(window))
        passed = clock() - start
        steady = _close(medians[-1], medians[-2]) and _close(medians[-2], medians[-3])
        if (steady and passed >= LEAST_WARM_UP_S) or passed >= most_s:
            return WarmUp(passed, queries, medians[-1], steady=steady)


def measure(timed: Timed, seconds: float, least_queries: int, expected_ms: float, clock: Clock = perf_counter) -> Round:
    """One round of at least so many seconds and queries, after some queries to settle."""
    settling = max(1, math.floor(SETTLE * seconds * 1e3 / max(expected_ms, 1e-6)))
    timed.time(settling)
    found: list[float] = []
    start = clock()
    while True:
        passed = clock() - start
        if found and passed >= seconds and len(found) >= least_queries:
            return Round(tuple(found), passed, settling)
        missing = math.ceil((seconds - passed) * 1e3 / max(expected_ms, 1e-6))
        # In one go, so that a device with a queue is kept busy.
        found += timed.time(max(missing, least_queries - len(found), 1))


def _close(one: float, other: float) -> bool:
    return math.isfinite(other) and abs(one - other) <= STEADY * other
