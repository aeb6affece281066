"""CPU counts, and the number of loader processes."""

from __future__ import annotations

import os

import psutil


def usable_cpus() -> int:
    """Number of logical CPUs that this process may run on; on macOS all, as it has no CPU affinity."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1


def physical_cores() -> int:
    """Number of physical cores among the usable CPUs; hyper-threads are excluded if the system reports them."""
    usable = usable_cpus()
    return min(usable, psutil.cpu_count(logical=False) or usable)


def loader_processes(wanted: int | None) -> int:
    """Number of loader processes: `data.workers` if set, else one per usable CPU, at most 8."""
    if wanted is not None:
        return wanted
    # torchrun sets LOCAL_WORLD_SIZE: its processes on one machine share the CPUs.
    return min(8, max(1, usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
