"""How many loader processes there are."""

from __future__ import annotations

import os


def loader_processes(wanted: int | None) -> int:
    """`data.workers`, or one per core that this process may use, at most 8."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
