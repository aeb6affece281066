"""Why a measurement may not be a fact: reasons that stand beside its figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from distillkit_export.profiling.latency import Summary

DEVICE_CV, HOST_CV = 2.5, 10.0
"""Percent. trtexec warns above the first, of times by the GPU's clock; the host's sees the scheduler, too."""
ROUNDS_APART = 0.10
BUSY = 0.5
"""The load of the minute before anything was measured, as a share of the CPUs. A quiet machine on which Python has just
started, or whose last command has just ended, lies below it."""
SLOW_CLOCK = 0.8
"""The share of its highest SM clock below which a GPU is throttled or asleep (the rule of nvbench)."""
FEW_QUERIES = 10


def doubts_of(
    summary: Summary, round_medians: Sequence[float], *, clock: str, steady: bool, sm_share: float | None = None
) -> tuple[str, ...]:
    """What speaks against the figures of one row."""
    found = []
    limit = DEVICE_CV if clock == "device" else HOST_CV
    if summary.cv > limit:
        found.append(f"latencies vary by {summary.cv:.1f} % (CV, limit {limit:g} %)")
    middle = statistics.median(round_medians)
    apart = (max(round_medians) - min(round_medians)) / middle if middle else 0.0
    if apart > ROUNDS_APART:
        found.append(f"rounds are {100 * apart:.0f} % apart (limit {100 * ROUNDS_APART:.0f} %)")
    if not steady:
        found.append("it was not steady after the warm-up")
    if summary.queries < FEW_QUERIES:
        found.append(f"only {summary.queries} queries")
    if sm_share is not None and sm_share < SLOW_CLOCK:
        found.append(f"the GPU ran at {100 * sm_share:.0f} % of its highest clock (limit {100 * SLOW_CLOCK:.0f} %)")
    return tuple(found)


def busy_machine(load_average: float | None, cpus: int) -> tuple[str, ...]:
    """What speaks against everything that is measured: other work on the machine."""
    if load_average is None or load_average <= BUSY * cpus:
        return ()
    return (f"the load average was {load_average:.2f} on {cpus} CPUs before it began",)
