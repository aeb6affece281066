"""The training loop: take steps, log, evaluate, save checkpoints. Read it from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Generator
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

    `evaluate` returns the figures of an evaluation; the others log, save, or show the progress after a step: `stepped`
    gets the number of steps done and whether an epoch ends.
    """

    logged: Callable[[Record], None]
    evaluate: Callable[[int], Record]
    epoch_ended: Callable[[Record], None]
    save: Callable[[int], None]
    stepped: Callable[[int, bool], None] = lambda _done, _ends_epoch: None


def train(  # noqa: PLR0913, PLR0917 - what a run is made of
    stepper: Stepper,
    skipped_steps: SkippedSteps,
    intervals: Intervals,
    callbacks: Callbacks,
    ema: ModelEmaV3 | None = None,
    averages: IntervalAverages | None = None,
    start: int = 0,
) -> Generator[int, Window | None, int]:
    """Train on every window that is sent. Returns the number of steps done, fewer than planned if the run was stopped.

    A generator, so that several runs can train on the same windows: it yields the number of the window that it needs
    next, from `start`, and receives that window, or None to stop; then it saves the last step.

    Waits for the device only at log intervals and evaluations, and where `callbacks.stepped` does. A step whose loss or
    gradient is not finite changes no weight; EMA is then updated with the unchanged weights. An interval in which every
    step was skipped is not logged: it is merged into the next one.
    """
    averages = averages or IntervalAverages(stepper.processes)
    averages.start()
    done = saved = start
    while done < intervals.steps and (sent := (yield done)) is not None:
        window = sent
        done = window.step + 1
        due = intervals.logs_after(done)
        outcome = stepper.step(window, measure=due)
        if ema is not None:
            ema.update(stepper.task.student, step=window.step)
        averages.add(outcome.averages, window.samples, outcome.skipped, waited_s=window.waited_s)
        skipped_steps.add(window, outcome)
        ends_epoch = window.ends_epoch or done == intervals.steps
        if due or ends_epoch:
            skipped_steps.read(window)
        if due and (record := averages.read(stepper.norms)) is not None:
            place = {"step": float(done), "epoch": done / intervals.steps_per_epoch}
            callbacks.logged(place | record | {"lr": stepper.optimisation.lr()})
        callbacks.stepped(done, ends_epoch)
        if ends_epoch:
            _end_epoch(window.epoch + 1, done, intervals, callbacks)
        if ends_epoch or intervals.saves_after(done):
            skipped_steps.read(window)  # the checkpoint stores the number of steps skipped in a row
            callbacks.save(done)
            saved = done
    if done > saved:  # stopped between two checkpoints
        skipped_steps.read(window)
        callbacks.save(done)
    return done


def _end_epoch(epoch: int, done: int, intervals: Intervals, callbacks: Callbacks) -> None:
    figures = callbacks.evaluate(done) if done == intervals.steps or epoch % intervals.evaluate_every == 0 else {}
    callbacks.epoch_ended({"step": float(done), "epoch": float(epoch)} | dict(figures))
