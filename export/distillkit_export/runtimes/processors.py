"""How many threads are worth trying on this machine, and how many a process really has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def usable_cpus() -> int:
    """The logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores(cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    """The cores behind the usable CPUs, where Linux tells them from hyper-threads; else the usable CPUs."""
    usable = usable_cpus()
    try:
        blocks = cpuinfo.read_text(encoding="utf-8").strip().split("\n\n")
    except OSError:
        return usable
    cores = set()
    for block in blocks:
        fields = dict(line.replace("\t", "").split(": ", 1) for line in block.splitlines() if ": " in line)
        if "core id" not in fields:
            return usable
        cores.add((fields.get("physical id"), fields["core id"]))
    return max(1, min(usable, len(cores)))


def thread_counts() -> tuple[int, ...]:
    """Numbers of threads worth trying: every usable CPU first, every core, then by halves down to one."""
    counts, count = [usable_cpus(), physical_cores()], physical_cores()
    while count > 1:
        count //= 2
        counts.append(count)
    return tuple(dict.fromkeys(counts))


def threads_started(start: Callable[[], object], tasks: Path = Path("/proc/self/task")) -> int | None:
    """How many threads of this process `start` leaves behind, or None where the system does not list them."""
    if not tasks.is_dir():
        start()
        return None
    before = sum(1 for _ in tasks.iterdir())
    start()
    return sum(1 for _ in tasks.iterdir()) - before
