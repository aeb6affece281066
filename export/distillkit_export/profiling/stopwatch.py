"""Warm up until latency is steady, then time a round. The work and the clock are parameters, so tests can fake both."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

Clock = Callable[[], float]

MIN_WARM_UP_S, MAX_WARM_UP_S = 0.2, 4.0
"""trtexec warms up for 200 ms; here the warm-up continues until latency is steady, up to the maximum."""
WINDOW_QUERIES, WINDOW_S = 3, 0.05
STEADY = 0.025
"""Largest relative difference between the medians of successive windows that counts as steady."""
SETTLE = 0.05
"""Share of a round discarded at its start, because other configurations ran in between."""


class Timed(Protocol):
    """Work that can be repeated; `time` returns the latency of each query in milliseconds."""

    def time(self, queries: int) -> Sequence[float]: ...


@dataclass(frozen=True)
class WarmUp:
    """A finished warm-up: duration, median latency of the last window, and whether latency was steady."""

    seconds: float
    queries: int
    last_ms: float
    steady: bool


@dataclass(frozen=True)
class Round:
    """The latencies of one round, its wall-clock time, and the number of discarded queries before it."""

    milliseconds: tuple[float, ...]
    wall_s: float
    settled: int


def warm_up(timed: Timed, clock: Clock = perf_counter, max_s: float = MAX_WARM_UP_S) -> WarmUp:
    """Run queries until three successive windows agree, for at least 0.2 s and at most about `max_s`."""
    start, queries, medians = clock(), 0, [math.inf, math.inf]
    while True:
        window: list[float] = []
        window_start = clock()
        while len(window) < WINDOW_QUERIES or clock() - window_start < WINDOW_S:
            window += timed.time(1)
        queries += len(window)
        medians.append(statistics.median(window))
        passed = clock() - start
        steady = _close(medians[-1], medians[-2]) and _close(medians[-2], medians[-3])
        if (steady and passed >= MIN_WARM_UP_S) or passed >= max_s:
            return WarmUp(passed, queries, medians[-1], steady=steady)


def measure(timed: Timed, seconds: float, min_queries: int, expected_ms: float, clock: Clock = perf_counter) -> Round:
    """One round of at least `seconds` and `min_queries`, after discarded queries to settle."""
    settling = max(1, math.floor(SETTLE * seconds * 1e3 / max(expected_ms, 1e-6)))
    timed.time(settling)
    found: list[float] = []
    start = clock()
    while True:
        passed = clock() - start
        if found and passed >= seconds and len(found) >= min_queries:
            return Round(tuple(found), passed, settling)
        missing = math.ceil((seconds - passed) * 1e3 / max(expected_ms, 1e-6))
        # All in one call, so that a device with a queue stays busy.
        found += timed.time(max(missing, min_queries - len(found), 1))


def _close(one: float, other: float) -> bool:
    return math.isfinite(other) and abs(one - other) <= STEADY * other
