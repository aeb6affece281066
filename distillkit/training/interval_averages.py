"""Averages of loss terms, throughput and data wait over a log interval; waits for the device once per interval."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from distillkit.compute.distributed import ALONE, Processes


class IntervalAverages:
    """Sums loss terms [] on the device, images, and the time spent waiting for data.

    `state` goes into a checkpoint, so that a resumed run logs the same averages; its rates cover only the time since
    it resumed. `clock` returns seconds.

    Shapes: averages, `skipped` and `extra` [].
    """

    def __init__(self, processes: Processes = ALONE, clock: Callable[[], float] = time.perf_counter) -> None:
        self._processes = processes
        self._clock = clock
        self._sums: dict[str, Tensor] = {}
        self._skipped = torch.zeros(())
        self._reset()

    def start(self) -> None:
        """Begin the interval now: restoring a checkpoint after the constructor is not part of it."""
        self._start = self._clock()

    def add(self, averages: Mapping[str, Tensor], images: int, skipped: Tensor, *, waited_s: float = 0.0) -> None:
        """Add one optimiser step: `averages` of this process, `images` of all processes, the seconds without data.

        Terms of a skipped step are left out of the averages.
        Shapes: averages: tensors []; skipped: bool [].
        """
        for name, value in averages.items():
            # Masked on the device: reading `skipped` would wait for it. A factor of 0 would keep NaN.
            counted = value.float().masked_fill(skipped, 0.0)
            self._sums[name] = self._sums[name] + counted if name in self._sums else counted
        self._skipped = self._skipped + skipped
        self._steps += 1
        self._images += images
        self._waited += waited_s

    def read(self, extra: Mapping[str, Tensor]) -> dict[str, float] | None:
        """The averages over the steps that were not skipped, and the rates, then reset; None if all were skipped.

        An interval in which every step was skipped is merged into the next one. `extra` are [] tensors, read in the
        same wait for the device. Keys: `loss`, `loss/<term>`, `images_per_s`, `data_wait` (share of the time), those of
        `extra` if all are finite, and `skipped_steps` if there were any.
        """
        averages = torch.stack(list(self._sums.values())) / (self._steps - self._skipped)  # [terms]
        others = [value.float() for value in extra.values()]
        values = torch.stack([self._skipped, *self._processes.sum(averages), *others])  # [1 + terms + extra]
        skipped, *read = values.tolist()
        if skipped == self._steps:
            return None
        names = [name if name == "loss" else f"loss/{name}" for name in self._sums]
        measured = read[len(names) :]
        elapsed = max(self._clock() - self._start, 1e-9)  # never 0, whatever the resolution of the clock
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

    def so_far(self) -> dict[str, float] | None:
        """The averages of this process in the current interval, and its images per second; None without a step.

        For display only; waits for the device.
        """
        taken = self._steps - int(self._skipped)
        if taken <= 0:
            return None
        elapsed = max(self._clock() - self._start, 1e-9)
        losses = {
            name if name == "loss" else f"loss/{name}": float(total) / taken for name, total in self._sums.items()
        }
        return losses | {"images_per_s": self._images / elapsed, "data_wait": min(self._waited / elapsed, 1.0)}

    def state(self) -> dict[str, Any]:
        """The sums of this process in the current interval, as plain data. Waits for the device."""
        # A float32 sum is exact as a Python float, and in JSON.
        sums = {name: float(total) for name, total in self._sums.items()}
        return {"steps": self._steps, "skipped": float(self._skipped), "sums": sums}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue the interval of a checkpoint."""
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
