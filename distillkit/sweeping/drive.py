"""Run the arms of a sweep, several at once, until all have ended or a signal stops them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from distillkit.running.stop_signals import StopRequest
from distillkit.storage.lock import LockedError, acquire
from distillkit.sweeping.arm_process import ArmProcess, Ended
from distillkit.sweeping.grid import SweepArm
from distillkit.sweeping.slots import Slot

POLL_S = 0.2
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class Job:
    """An arm to run: the words after `distillkit` that start or continue it, its directory and its log."""

    arm: SweepArm
    words: Sequence[str]
    directory: Path
    log: Path


@dataclass
class Running:
    """A started job."""

    job: Job
    slot: Slot
    process: ArmProcess
    started_s: float = field(default_factory=time.monotonic)


class Jobs(Protocol):
    """What to run, and what to do with it: all arms of a grid, or the trials of a search."""

    def next(self) -> Job | None:
        """The next job to start; None if there is none at present."""

    def watch(self, running: Sequence[Running]) -> None:
        """Called at every look; may stop a process."""

    def ended(self, job: Job, how: Ended) -> None:
        """Called when a job has ended by itself or was stopped by `watch`."""


def drive(jobs: Jobs, slots: Sequence[Slot], stop: StopRequest, note: Callable[[str], None]) -> None:
    """Start jobs as slots get free, until there are none.

    After a stop signal no job starts; those that run save a checkpoint and end. A second Ctrl-C ends them at once.
    """
    pool = _Pool(slots)
    with _killed_at_the_end(pool):
        while True:
            for running in [*pool.running]:
                how = running.process.ended()
                if how is not None:
                    pool.running.remove(running)
                    if stop.received is None or how.state != "stopped":
                        jobs.ended(running.job, how)
            if stop.received is not None:
                for running in pool.running:
                    running.process.stop()
            else:
                jobs.watch(pool.running)
                pool.fill(jobs, note)
            if not pool.running and (pool.waiting is None or stop.received is not None):
                return
            time.sleep(POLL_S)


class _Pool:
    """The running jobs, and a job that waits until another process leaves its directory."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self.running: list[Running] = []
        self.waiting: Job | None = None

    def fill(self, jobs: Jobs, note: Callable[[str], None]) -> None:
        """Start jobs in free slots."""
        while free := [slot for slot in self._slots if all(each.slot is not slot for each in self.running)]:
            job = self.waiting or jobs.next()
            if job is None:
                return
            # A process of an earlier sweep that was killed may still finish its step there.
            holder = _holder(job.directory)
            if holder is not None:
                if self.waiting is None:
                    note(f"{holder} is still training in {job.directory}; the sweep waits for it")
                self.waiting = job
                return
            self.waiting = None
            self.running.append(Running(job, free[0], ArmProcess(job.words, job.log, free[0].environment)))


@contextmanager
def _killed_at_the_end(pool: _Pool) -> Iterator[None]:
    """Leave no process behind, whatever ends the block."""
    try:
        yield
    finally:
        for running in pool.running:
            running.process.kill()


def _holder(directory: Path) -> str | None:
    """The process that trains in a directory, as the start of a sentence."""
    if not directory.is_dir():
        return None
    try:
        with acquire(directory / ".lock"):
            return None
    except LockedError as error:
        return error.holder
