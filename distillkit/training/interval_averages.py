"""Averages over the steps between two log lines; the device is waited for once per interval."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from distillkit.compute.distributed import ALONE, Processes

Item = TypeVar("Item")


class IntervalAverages:
    """Sums terms on the device, counts images, and times the wait for data.

    `state` goes into a checkpoint, so that a resumed run reads the same averages. The rates then cover
    the time since the resumption alone. `clock` returns seconds.
    """

    def __init__(self, processes: Processes = ALONE, clock: Callable[[], float] = time.perf_counter) -> None:
        self._processes = processes
        self._clock = clock
        self._sums: dict[str, Tensor] = {}
        self._skipped = torch.zeros(())
        self._reset()

    def timed(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield `items` and add up the time spent waiting for them."""
        iterator = iter(items)
        self._start = self._clock()
        while True:
            start = self._clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += self._clock() - start
            yield item

    def add(self, averages: Mapping[str, Tensor], images: int, skipped: Tensor) -> None:
        """Count one optimiser step: this process's part of the averages, the images of all, and whether it was skipped.

        The terms of a skipped step, some of which are not finite, are left out of the averages.
        """
        for name, value in averages.items():
            counted = value.float().masked_fill(skipped, 0.0)
            self._sums[name] = self._sums[name] + counted if name in self._sums else counted
        self._skipped = self._skipped + skipped
        self._steps += 1
        self._images += images

    def read(self, extra: Mapping[str, Tensor]) -> dict[str, float] | None:
        """The averages over the steps that were not skipped, and the rates, then reset; None where all were skipped.

        An interval in which every step was skipped is merged into the next one. `extra` are [] tensors that are read
        in the same wait as the averages. Keys: `loss`, `loss/<term>`, `images_per_s`, `data_wait` (share of the
        time), those of `extra` where all are finite, and `skipped_steps` where there were some.
        """
        averages = torch.stack(list(self._sums.values())) / (self._steps - self._skipped)
        others = [value.float() for value in extra.values()]
        skipped, *read = torch.stack([self._skipped, *self._processes.sum(averages), *others]).tolist()
        if skipped == self._steps:
            return None
        names = [name if name == "loss" else f"loss/{name}" for name in self._sums]
        measured = read[len(names) :]
        elapsed = max(self._clock() - self._start, 1e-9)
        record = dict(zip(names, read, strict=False)) | {
            "images_per_s": self._images / elapsed,
            "data_wait": min(self._waited / elapsed, 1.0),
        }
        if all(map(math.isfinite, measured)):
            record |= dict(zip(extra, measured, strict=True))
        if skipped:
            record["skipped_steps"] = skipped
        self._reset()
        return record

    def state(self) -> dict[str, Any]:
        """The sums of this process over the interval so far, as exact plain data. Waits for the device."""
        sums = {name: float(total) for name, total in self._sums.items()}
        return {"steps": self._steps, "skipped": float(self._skipped), "sums": sums}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue the interval that `state` describes."""
        self._steps = int(state["steps"])
        self._skipped = torch.tensor(float(state["skipped"]))
        self._sums = {name: torch.tensor(total, dtype=torch.float32) for name, total in state["sums"].items()}

    def _reset(self) -> None:
        self._sums = {}
        self._skipped = torch.zeros(())
        self._steps = 0
        self._images = 0
        self._waited = 0.0
        self._start = self._clock()
