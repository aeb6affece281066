"""The number of loader processes, measured in the first steps of a run where `data.workers` is not set."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from distillkit.compute.cpus import loader_processes, usable_cpus

T = TypeVar("T")

WARM_UPS, MEASURED = 2, 6
"""Steps that are not measured, and steps that are."""
SPARE = 1.25
"""Factor on the number of processes that just keep up: images take different times."""
MOST = 16
"""Maximum of measured loader processes: each has two batches ready."""


@dataclass
class LoaderSpeed:
    """Milliseconds to load a step's images in one process, and to take the step, and the resulting number of processes.

    `wanted` is `data.workers`; None measures. The number never changes a batch.
    """

    wanted: int | None
    load_ms: list[float] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    workers: int = field(init=False)
    is_used: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.workers = loader_processes(self.wanted)

    def add(self, load_ms: float, step_ms: float) -> None:
        """Count a step; after the last one to be measured, `workers` is the resulting number."""
        self.is_used = True
        if self.wanted is not None or len(self.step_ms) == WARM_UPS + MEASURED:
            return
        self.load_ms.append(load_ms)
        self.step_ms.append(step_ms)
        if len(self.step_ms) == WARM_UPS + MEASURED:
            self.workers = processes_for(*self.medians_ms)

    @property
    def medians_ms(self) -> tuple[float, float]:
        """Milliseconds to load the images of a step, and to take it."""
        return statistics.median(self.load_ms[WARM_UPS:]), statistics.median(self.step_ms[WARM_UPS:])

    @property
    def facts(self) -> dict[str, float]:
        """The number of processes, and the medians where they were measured, for result.json; nothing before a step."""
        measured = {}
        if not self.is_used:  # the windows of a pass come from the loader of its first run
            return {}
        if len(self.step_ms) == WARM_UPS + MEASURED:
            load_ms, step_ms = self.medians_ms
            measured = {"load_ms": round(load_ms, 3), "step_ms": round(step_ms, 3)}
        return {"workers": self.workers, **measured}

    def while_unchanged(self, jobs: Iterator[T]) -> Iterator[T]:
        """The next of `jobs`, as long as `workers` is what it is now."""
        workers = self.workers
        while self.workers == workers:
            for job in jobs:
                yield job
                break
            else:
                return


def processes_for(load_ms: float, step_ms: float) -> int:
    """The number of processes that load a step's images in `load_ms` each, so that none of `step_ms` is spent waiting.

    At least 1, and at most one per usable CPU of this process and `MOST`.
    """
    cpus = max(1, usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    needed = math.ceil(SPARE * load_ms / step_ms) if step_ms > 0 else MOST
    return max(1, min(needed, cpus, MOST))
