"""How many threads are worth trying on this machine, and how many a process really has."""

from __future__ import annotations

from collections.abc import Callable

import psutil

from distillkit.compute.cpus import physical_cores, usable_cpus


def thread_counts() -> tuple[int, ...]:
    """Numbers of threads worth trying: every usable CPU first, every core, then by halves down to one."""
    counts, count = [usable_cpus(), physical_cores()], physical_cores()
    while count > 1:
        count //= 2
        counts.append(count)
    return tuple(dict.fromkeys(counts))


def threads_started(start: Callable[[], object]) -> int:
    """How many threads of this process `start` leaves behind."""
    process = psutil.Process()
    before = process.num_threads()
    start()
    return process.num_threads() - before
