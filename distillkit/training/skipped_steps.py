"""Skipped steps: report them without stalling the device, and end the run after too many in a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from distillkit.compute.distributed import ALONE, Processes
from distillkit.training.step import StepResult

if TYPE_CHECKING:
    from distillkit.data.batches import Window


@dataclass(frozen=True)
class Skipped:
    """A skipped step.

    `step` counts from 1. `terms` are those that were not finite in some process; empty if only the gradient was not
    finite. `in_a_row` includes this step; it is 0 if the gradient only overflowed the fp16 loss scale, as it does while
    the scaler searches for its scale. `outcome` is the result of the step in this process.
    """

    step: int
    terms: tuple[str, ...]
    in_a_row: int
    outcome: StepResult

    @property
    def is_scale_search(self) -> bool:
        """Whether fp16 was only searching for its loss scale."""
        return self.in_a_row == 0

    @property
    def note(self) -> str:
        """The note for the first of several skipped steps."""
        if self.is_scale_search:
            return f"step {self.step:,} was skipped: the gradient overflowed; fp16 continues with a smaller loss scale"
        return f"step {self.step:,} was skipped: {self.reason}"

    @property
    def reason(self) -> str:
        """The reason for the skip, as text."""
        if not self.terms:
            return "the loss is finite, but its gradient is not"
        return f"the loss is not finite ({', '.join(self.terms)})"


class SkippedSteps:
    """Counts skipped steps in a row and ends the run at `limit`.

    Whether a step was skipped is read after the next step was submitted, which keeps the device busy. While steps
    are being skipped, or if `limit` is 1, it is read immediately: the last of `limit` skipped steps is then still the
    current one, and `give_up` can save it. `in_a_row` is the count at the step from which a run resumes.

    `on_skipped` is called for every skipped step. `give_up` ends the run by an exception.
    All processes call `add` and `read` at the same steps.
    """

    def __init__(
        self,
        limit: int,
        *,
        on_skipped: Callable[[Skipped], None],
        give_up: Callable[[Window, Skipped], NoReturn],
        in_a_row: int = 0,
        scaler: torch.amp.GradScaler | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.limit = limit
        self.in_a_row = in_a_row
        self._on_skipped = on_skipped
        self._give_up = give_up
        self._scaler = scaler
        self._processes = processes
        self._unread: tuple[int, StepResult, _Flag] | None = None

    def add(self, window: Window, outcome: StepResult) -> None:
        """Add the current step, and read the previous one."""
        self.read(window)  # the previous step cannot reach the limit: it would have been read immediately
        self._unread = window.step + 1, outcome, _Flag(outcome.skipped)
        if self.in_a_row or self.limit == 1:
            self.read(window)

    def read(self, window: Window) -> None:
        """Read the step that is still unread, if any; `window` is that of the current step."""
        if self._unread is None:
            return
        step, outcome, flag = self._unread
        self._unread = None
        if not flag.read():
            self.in_a_row = 0
            return
        terms = self._terms(outcome)
        is_search = not terms and self._scale_can_shrink()
        self.in_a_row += not is_search
        skipped = Skipped(step, terms, 0 if is_search else self.in_a_row, outcome)
        self._on_skipped(skipped)
        if self.in_a_row >= self.limit:
            self._give_up(window, skipped)

    def _terms(self, outcome: StepResult) -> tuple[str, ...]:
        """The terms that were not finite in some process, or "the sum of all terms" if only that was not finite."""
        bad = [name for name, value in outcome.averages.items() if not math.isfinite(value)]
        # All processes get here: `skipped` is the same in all of them.
        gathered = self._processes.gather("\n".join(bad))
        all_bad = dict.fromkeys(name for names in gathered for name in names.splitlines())
        named = tuple(name for name in all_bad if name != "loss")
        return named or (("the sum of all terms",) if all_bad else ())

    def _scale_can_shrink(self) -> bool:
        """Whether the loss scaler can still lower its scale after an overflow."""
        return self._scaler is not None and self._scaler.is_enabled() and self._scaler.get_scale() > 1


class _Flag:
    """A boolean that is copied asynchronously from the device to the host."""

    def __init__(self, value: Tensor) -> None:
        self._value = value
        self._arrived: torch.cuda.Event | None = None
        if value.device.type == "cuda":
            # Only a copy to pinned memory is asynchronous.
            self._value = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch does not type it
            self._arrived.record(torch.cuda.current_stream(value.device))

    def read(self) -> bool:
        """The value; waits for the copy, or for the device if it is not CUDA."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._value)
