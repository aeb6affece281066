"""Time queries by the host's clock: on a CPU, and where a runtime keeps its device's clock to itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter


class HostTimed:
    """A bound batch whose `compute` returns once the answer is there."""

    def __init__(self, compute: Callable[[], object]) -> None:
        self._compute = compute

    def time(self, queries: int) -> Sequence[float]:
        """Milliseconds of each query."""
        elapsed = []
        for _ in range(queries):
            start = perf_counter()
            self._compute()
            elapsed.append((perf_counter() - start) * 1e3)
        return elapsed
