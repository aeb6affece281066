"""One pass over the training data for one run, or for several: each window is sent to every run in turn."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from distillkit.data.batches import Window
from distillkit.errors import RunInterrupted, SkippedStepsError
from distillkit.running.stop_signals import StopRequest
from distillkit.running.training_run import RunResult, TrainingRun
from distillkit.training.shared_teachers import SharedTeachers

if TYPE_CHECKING:
    from distillkit.data.batches import TrainingData

SAME_EVERYWHERE = (RunInterrupted, SkippedStepsError)
"""Errors that all processes of a run raise at the same step."""


class _Member:
    """A run of the pass. `next_step` is the window that it needs next, None once it ended; then `outcome` is set."""

    def __init__(self, run: TrainingRun, stop_request: StopRequest) -> None:
        self.run = run
        self.next_step: int | None = None
        self.outcome: RunResult | Exception | None = None
        self._steps = run.run(stop_request)

    def advance(self, window: Window | None = None, *, error: Exception | None = None) -> None:
        """Take the step of a window; without one, begin or stop the run. `error` ends it: no window could be read."""
        self.next_step = None
        if window is not None:
            self.run.session.broken.extend(window.broken)
        try:
            self.next_step = self._steps.send(window) if error is None else self._steps.throw(error)
        except StopIteration as ended:
            self.outcome = ended.value
        except Exception as failure:
            # The other processes may still be in this step of the run, and would wait for this one.
            if not self.run.processes.is_alone and not isinstance(failure, SAME_EVERYWHERE):
                raise
            # Its frames hold `error`, whose frames would keep the loader workers alive.
            self.outcome = failure if error is None or failure is error else failure.with_traceback(None)

    def interrupt(self, interrupt: BaseException) -> None:
        """End the run, if it has not ended, because of an interrupt of the whole pass."""
        if self.next_step is not None:
            with suppress(BaseException):
                self._steps.throw(interrupt)


def train(runs: Sequence[TrainingRun]) -> list[RunResult | Exception]:
    """Train the runs on the windows of the first one's data, one run after the other on each window.

    Returns the result of each run, or the error with which it left; the others continue without it. Each run begins at
    its own step, so those that are behind take their steps first. After a stop signal all save and stop after the same
    window.

    Raises: KeyboardInterrupt and the like; with several processes also an error that only some of them may have.
    """
    with StopRequest().listening() as stop_request:
        for run in runs:
            run.runs_in_pass = len(runs)
        members = [_Member(run, stop_request) for run in runs]
        try:
            for member in members:
                member.advance()
            while active := _active(members):
                _send(_windows(runs[0].session.data, active), active, stop_request)
        except BaseException as error:
            for member in members:
                member.interrupt(error)
            raise
    return [member.outcome for member in members if member.outcome is not None]


def _send(items: Generator[Window | Exception], members: Sequence[_Member], stop_request: StopRequest) -> None:
    """Send windows to the runs that need them, until none of `members` needs the next one."""
    teachers = SharedTeachers()
    with closing(items):
        for item in items:
            if isinstance(item, Exception):
                for member in _active(members):
                    member.advance(error=item)
                return
            due = [member for member in members if member.next_step == item.step]
            if not due:
                return  # those that were behind have left
            with teachers.shared_by([member.run.session.stepper.teacher_targets for member in due]):
                for member in due:
                    member.advance(item)
            if stop_request.agreed(due[0].run.processes):
                break
        # After a stop signal; or a stream was shorter than it should be.
        for member in _active(members):
            member.advance(None)


def _windows(data: TrainingData, members: Sequence[_Member]) -> Generator[Window | Exception]:
    """The windows from the first that one of `members` needs, or the error of reading them as the last item."""
    failure = None
    start = min(member.next_step for member in members if member.next_step is not None)
    with closing(data.windows(start, members[0].run.info.steps)) as windows:
        try:
            yield from windows
        except Exception as error:  # noqa: BLE001 - every run raises it
            failure = error
    # Outside the handler, in which it would become the context of what the runs raise.
    if failure is not None:
        yield failure


def _active(members: Sequence[_Member]) -> list[_Member]:
    return [member for member in members if member.next_step is not None]
