"""A stop request: no signal is lost, whenever it arrives."""

from __future__ import annotations

import os
import signal

from distillkit.running.stop_signals import StopRequest


class Interrupted:
    """Processes whose comparison is interrupted by a signal after this process has given its number."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def max(self, number: int) -> int:
        self.given.append(number)
        if len(self.given) == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return number


def test_a_signal_during_the_comparison_counts_from_the_next_step_on() -> None:
    processes = Interrupted()
    with StopRequest().listening() as stop:
        assert not stop.agreed(processes)
        assert stop.received is signal.SIGUSR1
        assert stop.agreed(processes)
    assert processes.given == [0, signal.SIGUSR1]
    assert stop.received is signal.SIGUSR1


def test_all_processes_take_the_signal_of_one() -> None:
    class Other:
        def max(self, number: int) -> int:
            return max(number, int(signal.SIGTERM))

    stop = StopRequest()
    assert stop.agreed(Other())
    assert stop.received is signal.SIGTERM
