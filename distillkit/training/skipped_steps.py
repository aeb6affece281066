"""Which steps were skipped, read without keeping the device waiting; ends a run after too many in a row."""

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
    """A step that was not taken.

    `step` counts from 1. `terms` are those that were not finite in some process; there are none where the gradient
    alone was not. `in_a_row` counts this one too; it is 0 where the gradient was merely too large for the loss scale,
    which is how fp16 finds its scale. `outcome` is that of this process.
    """

    step: int
    terms: tuple[str, ...]
    in_a_row: int
    outcome: StepResult

    @property
    def is_scale_search(self) -> bool:
        """Whether this is merely how fp16 finds its loss scale."""
        return self.in_a_row == 0

    @property
    def note(self) -> str:
        """The sentence for the first of several skipped steps."""
        if self.is_scale_search:
            return (
                f"step {self.step:,} was skipped: the gradient overflowed, and fp16 goes on with a smaller loss scale"
            )
        return f"step {self.step:,} was skipped: {self.reason}"

    @property
    def reason(self) -> str:
        """What was not finite, in words."""
        if not self.terms:
            return "the gradient is not finite, though the loss is"
        return f"the loss is not finite ({', '.join(self.terms)})"


class SkippedSteps:
    """Reads whether a step was skipped once the next one was handed to the device.

    So the host is at most one step ahead, and a device that has work to do is not waited for. While steps are being
    skipped, or a single one would be too many, it is read at once: the last of `limit` skipped in a row is then the
    step at hand. `in_a_row` is how many were skipped up to where a run is continued.

    `on_skipped` is called for every skipped step. `give_up` ends the run, by an exception, at the one that is too many.
    Each of several processes calls `add` and `read` at the same steps.
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
        """Add the step at hand, and read the one before."""
        self.read(window)  # the step before cannot be one too many: it would have been read at once
        self._unread = window.step + 1, outcome, _Flag(outcome.skipped)
        if self.in_a_row or self.limit == 1:
            self.read(window)

    def read(self, window: Window) -> None:
        """Read the step that is still unread, if any; `window` is the step at hand."""
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
        """The terms that were not finite in some process, or their sum where all of them were."""
        bad = [name for name, value in outcome.averages.items() if not math.isfinite(value)]
        gathered = self._processes.gather("\n".join(bad))
        everywhere = dict.fromkeys(name for names in gathered for name in names.splitlines())
        named = tuple(name for name in everywhere if name != "loss")
        return named or (("their sum",) if everywhere else ())

    def _scale_can_shrink(self) -> bool:
        """Whether the loss scaler can still answer a gradient that is too large with a smaller scale."""
        return self._scaler is not None and self._scaler.is_enabled() and self._scaler.get_scale() > 1


class _Flag:
    """A truth value on its way from the device to the host."""

    def __init__(self, value: Tensor) -> None:
        self._value = value
        self._arrived: torch.cuda.Event | None = None
        if value.device.type == "cuda":
            self._value = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch does not type it
            self._arrived.record(torch.cuda.current_stream(value.device))

    def read(self) -> bool:
        """The value; waits until it has arrived. A device other than CUDA is waited for."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._value)
