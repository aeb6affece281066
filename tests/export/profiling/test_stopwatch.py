"""Warm-up and measurement, with a clock that only the measured work advances."""

from __future__ import annotations

import pytest

from distillkit_export.profiling.stopwatch import measure, warm_up


class Work:
    """Fake work: its queries last the given milliseconds, the last value repeated, and advance the clock."""

    def __init__(self, *milliseconds):
        self.milliseconds, self.calls, self.now = list(milliseconds), [], 0.0

    def clock(self):
        return self.now

    def time(self, queries):
        self.calls.append(queries)
        taken = [
            self.milliseconds.pop(0) if len(self.milliseconds) > 1 else self.milliseconds[0] for _ in range(queries)
        ]
        self.now += sum(taken) / 1e3
        return taken

    def _next(self):
        return self.milliseconds.pop(0) if len(self.milliseconds) > 1 else self.milliseconds[0]


def test_steady_work_warms_up_for_200_ms():
    found = warm_up(work := Work(10.0), work.clock)
    assert found.steady
    assert 0.2 <= found.seconds < 0.2 + 0.06
    assert found.last_ms == 10.0


def test_slow_work_needs_three_windows_of_three_queries():
    found = warm_up(work := Work(400.0), work.clock)
    assert (found.steady, found.queries) == (True, 9)


def test_warm_up_continues_until_latencies_settle():
    falling = [100 * 0.9**number for number in range(30)]
    found = warm_up(work := Work(*falling, 5.0), work.clock)
    assert found.steady
    assert found.last_ms == 5.0
    assert found.queries > 30


def test_warm_up_that_never_settles_stops_at_the_limit():
    restless = [50.0 * (1 + number % 7) for number in range(2_000)]
    found = warm_up(work := Work(*restless), work.clock, max_s=2.0)
    assert not found.steady
    assert 2.0 <= found.seconds < 4.0


def test_round_lasts_the_given_time_after_discarded_queries():
    found = measure(work := Work(10.0), seconds=1.0, min_queries=2, expected_ms=10.0, clock=work.clock)
    assert work.calls[0] == found.settled == 5
    assert len(found.milliseconds) == 100
    assert found.wall_s == pytest.approx(1.0)


def test_slow_work_gets_the_minimum_number_of_queries():
    found = measure(work := Work(1000.0), seconds=0.5, min_queries=4, expected_ms=1000.0, clock=work.clock)
    assert (len(found.milliseconds), found.wall_s) == (4, 4.0)


def test_wrong_expected_latency_is_corrected():
    found = measure(work := Work(10.0), seconds=1.0, min_queries=1, expected_ms=50.0, clock=work.clock)
    assert found.wall_s >= 1.0
    assert len(found.milliseconds) >= 100
