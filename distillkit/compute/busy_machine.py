"""The caveat of latencies that were measured while the machine was busy with other work."""

from __future__ import annotations

import os

BUSY = 0.5
"""Limit on the load average of the last minute before measuring, as a share of the CPUs. An idle machine stays below it
even if Python has just started or a command has just ended."""
CAVEAT_MARK = "*"
"""Follows a figure that is not reliable."""


def load_average() -> float | None:
    """Load average of the last minute; None where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def busy_machine(load: float | None, cpus: int) -> tuple[str, ...]:
    """The caveat of all figures on a machine that was busy with other work."""
    if load is None or load <= BUSY * cpus:
        return ()
    return (f"the load average was {load:.2f} on {cpus} CPUs before the measurement",)
