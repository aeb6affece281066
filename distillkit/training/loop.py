"""The loop: windows of data in, a trained student out. Read it from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillkit.training.interval_averages import IntervalAverages
from distillkit.training.skipped_steps import SkippedSteps
from distillkit.training.step import Stepper

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

    from distillkit.data.batches import Window

Record = Mapping[str, float]


@dataclass(frozen=True)
class Rhythm:
    """When the loop does what, in optimiser steps and epochs.

    The first step is logged by itself: it shows how the terms of the loss are balanced while that can still be
    changed, and takes the warming up out of the first interval, whose averages begin with the second step.
    """

    steps: int
    steps_per_epoch: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int | None

    def logs(self, done: int) -> bool:
        """Whether the record of an interval is due after `done` steps of the run, the resumed ones counted."""
        return done == 1 or done % self.log_every == 0 or done == self.steps


@dataclass(frozen=True)
class Callbacks:
    """What happens around the loop.

    `evaluate` returns the figures of an evaluation, `asked_to_stop` whether the run shall end after this step; the
    others report or save.
    """

    logged: Callable[[Record], None]
    evaluate: Callable[[int], Record]
    epoch_ended: Callable[[Record], None]
    save: Callable[[int], None]
    asked_to_stop: Callable[[], bool] = lambda: False


def train(  # noqa: PLR0913, PLR0917 - what a run is made of
    windows: Iterable[Window],
    stepper: Stepper,
    watch: SkippedSteps,
    rhythm: Rhythm,
    callbacks: Callbacks,
    ema: ModelEmaV3 | None = None,
    meter: IntervalAverages | None = None,
) -> int:
    """Take every window in turn, and return after how many steps of the run there were no more, or it was stopped.

    The device is waited for at log intervals and evaluations only. A step whose loss or gradient is not finite moves
    nothing; the moving average then counts the weights of before once more. An interval without a step that was taken
    has no record, and goes on until the next one.
    """
    done = rhythm.steps
    meter = meter or IntervalAverages(stepper.processes)
    for window in meter.timed(windows):
        done = window.step + 1
        due = rhythm.logs(done)
        outcome = stepper.step(window, measure=due)
        if ema is not None:
            ema.update(stepper.task.student, step=window.step)
        meter.add(outcome.averages, window.samples, outcome.skipped)
        watch.follow(window, outcome)
        last = done == rhythm.steps
        if due or window.ends_epoch or last:
            watch.settle(window)
        if due and (record := meter.read(stepper.norms)) is not None:
            place = {"step": float(done), "epoch": done / rhythm.steps_per_epoch}
            callbacks.logged(place | record | {"lr": stepper.optimisation.lr()})
        if window.ends_epoch or last:
            _end_epoch(window.epoch + 1, done, rhythm, callbacks)
        stop = callbacks.asked_to_stop()
        if window.ends_epoch or last or stop or (rhythm.checkpoint_every and done % rhythm.checkpoint_every == 0):
            watch.settle(window)
            callbacks.save(done)
        if stop:
            break
    return done


def _end_epoch(epoch: int, done: int, rhythm: Rhythm, callbacks: Callbacks) -> None:
    figures = callbacks.evaluate(done) if done == rhythm.steps or epoch % rhythm.evaluate_every == 0 else {}
    callbacks.epoch_ended({"step": float(done), "epoch": float(epoch)} | dict(figures))
