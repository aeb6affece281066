"""The processors that this process may use, and how many loader processes they are given."""

from __future__ import annotations

import os

import psutil


def usable_cpus() -> int:
    """Number of logical CPUs that this process may run on; on macOS all, as it pins no process."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1


def physical_cores() -> int:
    """Number of cores behind the usable CPUs: hyper-threads are not counted, where the system tells them apart."""
    usable = usable_cpus()
    return min(usable, psutil.cpu_count(logical=False) or usable)


def loader_processes(wanted: int | None) -> int:
    """`data.workers`, or one per core that this process may use, at most 8."""
    if wanted is not None:
        return wanted
    return min(8, max(1, usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
