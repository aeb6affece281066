"""Warming up and measuring, with a clock that only the measured work moves."""

from __future__ import annotations

import pytest

from distillkit_export.profiling.stopwatch import measure, warm_up


class Work:
    """Takes the given milliseconds, query by query, the last of them for ever, and moves the clock by them."""

    def __init__(self, *milliseconds):
        self.milliseconds, self.asked, self.now = list(milliseconds), [], 0.0

    def clock(self):
        return self.now

    def time(self, queries):
        self.asked.append(queries)
        taken = [
            self.milliseconds.pop(0) if len(self.milliseconds) > 1 else self.milliseconds[0] for _ in range(queries)
        ]
        self.now += sum(taken) / 1e3
        return taken

    def _next(self):
        return self.milliseconds.pop(0) if len(self.milliseconds) > 1 else self.milliseconds[0]


def test_steady_work_warms_up_for_a_fifth_of_a_second():
    found = warm_up(work := Work(10.0), work.clock)
    assert found.steady
    assert 0.2 <= found.seconds < 0.2 + 0.06
    assert found.last_ms == 10.0


def test_slow_work_needs_three_windows_of_three_queries():
    found = warm_up(work := Work(400.0), work.clock)
    assert (found.steady, found.queries) == (True, 9)


def test_warm_up_goes_on_until_latencies_settle():
    falling = [100 * 0.9**number for number in range(30)]
    found = warm_up(work := Work(*falling, 5.0), work.clock)
    assert found.steady
    assert found.last_ms == 5.0
    assert found.queries > 30


def test_warm_up_that_never_settles_ends_in_time_and_says_so():
    restless = [50.0 * (1 + number % 7) for number in range(2_000)]
    found = warm_up(work := Work(*restless), work.clock, most_s=2.0)
    assert not found.steady
    assert 2.0 <= found.seconds < 4.0


def test_round_lasts_as_long_as_asked_after_queries_that_do_not_count():
    found = measure(work := Work(10.0), seconds=1.0, least_queries=2, expected_ms=10.0, clock=work.clock)
    assert work.asked[0] == found.settled == 5
    assert len(found.milliseconds) == 100
    assert found.wall_s == pytest.approx(1.0)


def test_slow_work_gets_its_least_number_of_queries_however_long_that_takes():
    found = measure(work := Work(1000.0), seconds=0.5, least_queries=4, expected_ms=1000.0, clock=work.clock)
    assert (len(found.milliseconds), found.wall_s) == (4, 4.0)


def test_expectation_that_is_wrong_is_made_up_for():
    found = measure(work := Work(10.0), seconds=1.0, least_queries=1, expected_ms=50.0, clock=work.clock)
    assert found.wall_s >= 1.0
    assert len(found.milliseconds) >= 100
