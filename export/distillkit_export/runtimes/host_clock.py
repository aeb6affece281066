"""Time queries with the host's clock: on a CPU, and for runtimes that do not expose the device's clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter


class HostTimed:
    """A bound batch whose `compute` returns when its output is complete."""

    def __init__(self, compute: Callable[[], object]) -> None:
        self._compute = compute

    def time(self, queries: int) -> Sequence[float]:
        """Latency of each query in milliseconds."""
        elapsed = []
        for _ in range(queries):
            start = perf_counter()
            self._compute()
            elapsed.append((perf_counter() - start) * 1e3)
        return elapsed
