"""The processors that this process may use."""

from __future__ import annotations

import psutil


def usable_cpus() -> int:
    """Number of logical CPUs that this process may run on; on macOS all, as it pins no process."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1


def physical_cores() -> int:
    """Number of cores behind the usable CPUs: hyper-threads are not counted, where the system tells them apart."""
    usable = usable_cpus()
    return min(usable, psutil.cpu_count(logical=False) or usable)
