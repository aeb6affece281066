"""Averages over the steps between two log lines; the device is waited for once per interval."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from distillkit.processes import ALONE, Processes

Item = TypeVar("Item")


class Meter:
    """Sums terms on the device, counts images, and times the wait for data.

    `state` is what a checkpoint keeps of the interval under way, so that a resumed run reads the same averages. The
    rates then count from the resumption alone.
    """

    def __init__(self, processes: Processes = ALONE) -> None:
        self._processes = processes
        self._sums: dict[str, Tensor] = {}
        self._reset()

    def timed(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass `items` on and remember how long each was waited for."""
        iterator = iter(items)
        self._start = time.perf_counter()
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield item

    def add(self, averages: Mapping[str, Tensor], images: int) -> None:
        """Count one optimiser step: this process's part of the averages, the images of all."""
        for name, value in averages.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1
        self._images += images

    @property
    def steps(self) -> int:
        """Steps since the last reading."""
        return self._steps

    def read(self, extra: Mapping[str, Tensor]) -> dict[str, float]:
        """The interval's averages and rates, then start anew.

        `extra` are [] tensors that are read beside the averages in the same wait. Keys: `loss`, `loss/<term>`,
        `images_per_s`, `data_wait` (share of the time), and those of `extra`.
        """
        averages = torch.stack([total.float() / self._steps for total in self._sums.values()])
        others = [value.float() for value in extra.values()]
        read = torch.stack([*self._processes.sum(averages), *others]).tolist()
        names = [name if name == "loss" else f"loss/{name}" for name in self._sums] + list(extra)
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        record = dict(zip(names, read, strict=True)) | {
            "images_per_s": self._images / elapsed,
            "data_wait": min(self._waited / elapsed, 1.0),
        }
        self._reset()
        return record

    def state(self) -> dict[str, Any]:
        """What this process has of the interval so far, as plain data that keeps every bit. Waits for the device."""
        return {"steps": self._steps, "sums": {name: float(total) for name, total in self._sums.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the interval that `state` tells of."""
        self._steps = int(state["steps"])
        self._sums = {name: torch.tensor(total, dtype=torch.float32) for name, total in state["sums"].items()}

    def _reset(self) -> None:
        self._sums = {}
        self._steps = 0
        self._images = 0
        self._waited = 0.0
        self._start = time.perf_counter()
