"""Thread counts worth trying on this machine, and the number of threads that a session starts."""

from __future__ import annotations

from collections.abc import Callable

import psutil

from distillkit.compute.cpus import physical_cores, usable_cpus


def thread_counts() -> tuple[int, ...]:
    """Thread counts worth trying: all usable CPUs, all physical cores, then halved down to one."""
    counts, count = [usable_cpus(), physical_cores()], physical_cores()
    while count > 1:
        count //= 2
        counts.append(count)
    return tuple(dict.fromkeys(counts))


def threads_started(start: Callable[[], object]) -> int:
    """Number of threads that `start` adds to this process."""
    process = psutil.Process()
    before = process.num_threads()
    start()
    return process.num_threads() - before
