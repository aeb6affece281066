"""The training loop: take steps, log, evaluate, save checkpoints. Read it from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillkit.contracts.run import Record
from distillkit.training.interval_averages import IntervalAverages
from distillkit.training.skipped_steps import SkippedSteps
from distillkit.training.step import Stepper

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

    from distillkit.data.batches import Window


@dataclass(frozen=True)
class Intervals:
    """When the loop logs, evaluates and saves, in optimiser steps and epochs.

    The first step is logged by itself. It shows the balance of the loss terms before time is spent on a bad one, and
    keeps the slow first step out of the averages of the first interval.
    """

    steps: int
    steps_per_epoch: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int | None

    def logs_after(self, done: int) -> bool:
        """Whether to log after `done` steps of the run, including those before a resume."""
        return done == 1 or done % self.log_every == 0 or done == self.steps

    def saves_after(self, done: int) -> bool:
        """Whether to save a checkpoint after `done` steps, in addition to the end of each epoch."""
        return self.checkpoint_every is not None and done % self.checkpoint_every == 0


@dataclass(frozen=True)
class Callbacks:
    """Callbacks of the loop.

    `evaluate` returns the figures of an evaluation, `should_stop` whether to end the run after this step; the others
    log or save.
    """

    logged: Callable[[Record], None]
    evaluate: Callable[[int], Record]
    epoch_ended: Callable[[Record], None]
    save: Callable[[int], None]
    should_stop: Callable[[], bool] = lambda: False


def train(  # noqa: PLR0913, PLR0917 - what a run is made of
    windows: Iterable[Window],
    stepper: Stepper,
    skipped_steps: SkippedSteps,
    intervals: Intervals,
    callbacks: Callbacks,
    ema: ModelEmaV3 | None = None,
    averages: IntervalAverages | None = None,
) -> int:
    """Train on every window in turn; return the number of steps done, fewer than planned where the run was stopped.

    Waits for the device only at log intervals and evaluations. A step whose loss or gradient is not finite changes no
    weight; EMA is then updated with the unchanged weights. An interval in which every step was skipped is not logged:
    it is merged into the next one.
    """
    done = intervals.steps  # if there are no windows: the run was killed after its last step
    averages = averages or IntervalAverages(stepper.processes)
    for window in averages.timed(windows):
        done = window.step + 1
        due = intervals.logs_after(done)
        outcome = stepper.step(window, measure=due)
        if ema is not None:
            ema.update(stepper.task.student, step=window.step)
        averages.add(outcome.averages, window.samples, outcome.skipped)
        skipped_steps.add(window, outcome)
        ends_epoch = window.ends_epoch or done == intervals.steps
        if due or ends_epoch:
            skipped_steps.read(window)
        if due and (record := averages.read(stepper.norms)) is not None:
            place = {"step": float(done), "epoch": done / intervals.steps_per_epoch}
            callbacks.logged(place | record | {"lr": stepper.optimisation.lr()})
        if ends_epoch:
            _end_epoch(window.epoch + 1, done, intervals, callbacks)
        stop = callbacks.should_stop()
        if ends_epoch or stop or intervals.saves_after(done):
            skipped_steps.read(window)  # the checkpoint stores the number of steps skipped in a row
            callbacks.save(done)
        if stop:
            break
    return done


def _end_epoch(epoch: int, done: int, intervals: Intervals, callbacks: Callbacks) -> None:
    figures = callbacks.evaluate(done) if done == intervals.steps or epoch % intervals.evaluate_every == 0 else {}
    callbacks.epoch_ended({"step": float(done), "epoch": float(epoch)} | dict(figures))
