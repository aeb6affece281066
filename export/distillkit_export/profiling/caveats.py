"""Caveats of a measurement: reasons not to trust its figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from distillkit_export.profiling.latency import Summary

DEVICE_CV, HOST_CV = 2.5, 10.0
"""Limits on the CV in percent. trtexec warns above the first, by the GPU's clock; the host's includes the scheduler."""
ROUNDS_SPREAD = 0.10
SLOW_CLOCK = 0.8
"""Share of the maximum SM clock below which a GPU is throttled or idle (nvbench's rule)."""
FEW_QUERIES = 10


def caveats_of(
    summary: Summary, round_medians: Sequence[float], *, clock: str, steady: bool, sm_share: float | None = None
) -> tuple[str, ...]:
    """The caveats of one row."""
    caveats = []
    limit = DEVICE_CV if clock == "device" else HOST_CV
    if summary.cv > limit:
        caveats.append(f"latencies vary by {summary.cv:.1f} % (CV, limit {limit:g} %)")
    middle = statistics.median(round_medians)
    spread = (max(round_medians) - min(round_medians)) / middle if middle else 0.0
    if spread > ROUNDS_SPREAD:
        caveats.append(f"round medians differ by {100 * spread:.0f} % (limit {100 * ROUNDS_SPREAD:.0f} %)")
    if not steady:
        caveats.append("latency was not steady after the warm-up")
    if summary.queries < FEW_QUERIES:
        caveats.append(f"only {summary.queries} queries")
    if sm_share is not None and sm_share < SLOW_CLOCK:
        caveats.append(f"the GPU ran at {100 * sm_share:.0f} % of its highest clock (limit {100 * SLOW_CLOCK:.0f} %)")
    return tuple(caveats)
