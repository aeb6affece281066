"""The course of a run: go on where it stopped, train, save, evaluate, and leave a finished directory."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import nn

from distillkit.contracts.incidents import Incidents
from distillkit.contracts.model import Model
from distillkit.contracts.run import RunInfo
from distillkit.errors import CheckpointError, RunInterrupted
from distillkit.messages.text import counted
from distillkit.models.saved_student import save_student
from distillkit.plugin.registry import PluginRegistry
from distillkit.running.checkpoint import (
    Checkpoint,
    checkpoint_at,
    clear_remains,
    newest_checkpoint,
    putting_back,
    read_checkpoint,
    write_checkpoint,
)
from distillkit.running.directory import RunDirectory
from distillkit.running.incident_log import IncidentLog
from distillkit.running.session import TrainingSession
from distillkit.running.stop_signals import Interruption
from distillkit.running.system_faults import outage
from distillkit.storage.atomic import recover_directory, whole_directory, write_json
from distillkit.training.interval_averages import IntervalAverages
from distillkit.training.loop import Callbacks, Intervals, Record, train
from distillkit.training.skipped_steps import SkippedSteps


@dataclass(frozen=True)
class RunResult:
    """Where a run is and what its student achieves; `figures` are in percent, as `<split>/<figure>`.

    `skipped` of its `steps` moved nothing, since loss or gradient was not finite.
    """

    directory: Path
    figures: Mapping[str, float]
    steps: int
    skipped: int = 0


@dataclass
class RunProgress:
    """What must survive an interruption beside the weights.

    `interval` has, for every process, what the log interval at hand has summed up so far.
    """

    best: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    incidents: Incidents = field(default_factory=Incidents)
    skipped_in_a_row: int = 0
    interval: list[Any] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**vars(self), "incidents": self.incidents.as_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunProgress:
        """The inverse of `as_dict`."""
        return cls(
            best=dict(data["best"]),
            figures=dict(data["figures"]),
            incidents=Incidents.from_dict(data["incidents"]),
            skipped_in_a_row=int(data["skipped_in_a_row"]),
            interval=list(data["interval"]),
        )


class TrainingRun:
    """One run, from where it stands to its end; `facts` are its plan as plain data."""

    def __init__(
        self,
        session: TrainingSession,
        directory: RunDirectory,
        plugins: PluginRegistry,
        observers: Sequence[object],
        facts: Mapping[str, Any],
    ) -> None:
        self.session = session
        self.directory = directory
        self.plugins = plugins
        self.observers = observers
        self.facts = facts
        self.processes = session.processes
        self.meter = IntervalAverages(session.processes)
        self.interruption = Interruption()

    def go(self) -> RunResult:
        """Restore, train, and leave a finished directory.

        Raises: RunDirectoryError where another process trains there; RunInterrupted where a signal asked for an end,
        once the step is saved; TrainingError where steps fail in a row, or the system takes something away.
        """
        lock = self.directory.locked() if self.processes.is_first else nullcontext()
        with lock, self.interruption.listening():
            try:
                return self._go()
            except Exception as error:
                found = outage(error, self.directory.path)
                if found is None:
                    raise
            # Without the error, whose frames would keep loader processes: their end would be raised again and again.
            raise found

    def _go(self) -> RunResult:
        made = self.session.plan
        start, self.progress, passed_over = self._restored()
        self.info = RunInfo(
            self.directory.path,
            made.recipe.model_dump(mode="json"),
            {**self.facts, "notes": [*self.facts["notes"], *passed_over]},
            steps=made.steps,
            steps_per_epoch=made.steps_per_epoch,
            start_step=start,
            incidents=self.progress.incidents,
        )
        self.chronicle = IncidentLog(self.session, self.directory, self.plugins, self.info)
        if self.processes.is_first:
            self._followed()
        else:
            self._train()
            self._finish()
        return RunResult(
            self.directory.path, self.progress.figures, made.steps, skipped=len(self.progress.incidents.skipped)
        )

    def _restored(self) -> tuple[int, RunProgress, list[str]]:
        """The step to start from, that of the newest whole checkpoint or 0; and what is to be said of damaged ones."""
        checkpoint: Checkpoint | None = None
        damaged: tuple[CheckpointError, ...] = ()
        if self.processes.is_first:
            recover_directory(self.directory.best)
            checkpoint, damaged = newest_checkpoint(self.directory.checkpoints)
            clear_remains(
                self.directory.checkpoints,
                keep=self.session.plan.recipe.training.keep,
                newest=checkpoint.step if checkpoint else 0,
            )
        chosen = self.processes.from_first(str(checkpoint.step) if checkpoint else "")
        if not chosen:
            return 0, RunProgress(), []
        checkpoint = checkpoint or read_checkpoint(checkpoint_at(self.directory.checkpoints, int(chosen)))
        self.session.restore(checkpoint)
        with putting_back(checkpoint.step):
            progress = RunProgress.from_dict(checkpoint.state["progress"])
            if len(progress.interval) == self.processes.world:
                self.meter.restore(progress.interval[self.processes.rank])
        notes = [f"{error}; the run goes on from step {checkpoint.step} instead" for error in damaged]
        if len(progress.interval) != self.processes.world:
            before = counted(len(progress.interval), "process")
            notes.append(
                f"it was begun by {before} and goes on with {self.processes.world}: the same batches, but sums "
                "that may differ in their last bits"
            )
        return checkpoint.step, progress, notes

    def _followed(self) -> None:
        """Train with the trackers of the recipe, and all others that follow."""
        trackers = [self.plugins.made("tracker", name) for name in self.info.recipe["trackers"]]
        self.plugins.follow(*trackers, *self.observers)
        try:
            self._follow_through()
        finally:
            self.plugins.unfollow(*trackers, *self.observers)

    def _follow_through(self) -> None:
        """Train and finish, and say so to those who follow, or why not."""
        self.plugins.run_started(self.info)
        try:
            self._train()
            self._finish()
        except BaseException as error:
            self.plugins.run_failed(self.info, error)
            raise
        self.plugins.run_ended(self.info, self.progress.figures, self.session.models)
        self._write_result()

    def _train(self) -> None:
        made, training = self.session.plan, self.session.plan.recipe.training
        intervals = Intervals(
            made.steps, made.steps_per_epoch, training.log_every, training.evaluate_every, training.checkpoint_every
        )
        callbacks = Callbacks(
            logged=self._logged,
            evaluate=self._evaluate,
            epoch_ended=self._epoch_ended,
            save=self._save,
            should_stop=self._asked_to_stop,
        )
        self.watch = SkippedSteps(
            training.max_skipped,
            on_skipped=self.chronicle.skipped,
            give_up=self.chronicle.give_up,
            in_a_row=self.progress.skipped_in_a_row,
            scaler=self.session.optimisation.scaler,
            processes=self.processes,
        )
        windows = self.session.data.windows(self.info.start_step, made.steps)
        done = train(windows, self.session.stepper, self.watch, intervals, callbacks, self.session.ema, self.meter)
        if self.interruption.asked is not None and done < made.steps:
            raise RunInterrupted(
                f"stopped by {self.interruption.asked.name} after step {done} of {made.steps}, which is saved; "
                f"to continue: distillkit run --resume {self.directory.path}{self.processes.option}",
                signal_number=self.interruption.asked,
            )

    def _asked_to_stop(self) -> bool:
        """Whether a signal reached any of the processes; all of them then stop after the same step."""
        number = self.processes.largest(self.interruption.asked or 0)
        self.interruption.asked = signal.Signals(number) if number else None
        return number > 0

    def _logged(self, record: Record) -> None:
        self.chronicle.settle(int(record["step"]))
        if self.processes.is_first:
            self.plugins.steps_logged(self.info, record)

    def _epoch_ended(self, record: Record) -> None:
        self.chronicle.settle(int(record["step"]))
        if self.processes.is_first:
            self.plugins.epoch_ended(self.info, record)

    def _evaluate(self, step: int) -> Record:
        """Evaluate on the validation images; keep the student where it is the best so far."""
        session, progress = self.session, self.progress
        figures = _prefixed("validation", session.evaluate(session.task.student, "validation"))
        if session.ema is not None:
            figures |= _prefixed("validation/ema", session.evaluate(session.ema.module, "validation"))
        score = figures.get("validation/top1")
        if score is not None and score > progress.best.get("top1", -1.0):
            progress.best = {"top1": score, "step": float(step)}
            if self.processes.is_first:
                self._save_student(self.directory.best, session.task.student)
        progress.figures = figures
        return figures

    def _save(self, step: int) -> None:
        self.chronicle.settle(step)  # what was met before a checkpoint is in it
        progress = self.progress
        progress.interval = [json.loads(said) for said in self.processes.gather(json.dumps(self.meter.state()))]
        progress.skipped_in_a_row = self.watch.in_a_row
        if not self.processes.is_first:
            return
        self.directory.require_there()
        checkpoint = self.session.checkpoint(step, progress.as_dict())
        write_checkpoint(self.directory.checkpoints, checkpoint, keep=self.session.plan.recipe.training.keep)

    def _finish(self) -> None:
        """Evaluate on the test images, and save the student."""
        session, progress = self.session, self.progress
        progress.figures |= _prefixed("test", session.evaluate(session.task.student, "test"))
        if session.ema is not None:
            progress.figures |= _prefixed("test/ema", session.evaluate(session.ema.module, "test"))
        if progress.best:
            best = {"best/validation_top1": progress.best["top1"], "best/step": progress.best["step"]}
            progress.figures |= best
        self.chronicle.settle(self.info.steps)
        if not self.processes.is_first:
            return
        self.directory.require_there()
        if session.ema is not None:
            self._save_student(self.directory.ema, session.ema.module)
        self._write_student(self.directory.path, session.task.student)

    def _write_result(self) -> None:
        """What says that a run is finished, written when nothing is left to do."""
        progress = self.progress
        result: dict[str, Any] = {"steps": self.session.plan.steps, "figures": progress.figures}
        if progress.incidents:
            result["incidents"] = progress.incidents.summary()
        write_json(self.directory.result, result)

    def _save_student(self, directory: Path, student: nn.Module) -> None:
        with whole_directory(directory) as temporary:
            self._write_student(temporary, student)

    def _write_student(self, directory: Path, student: nn.Module) -> None:
        made = self.session.plan
        request, names = made.student.request, made.class_names
        save_student(directory, cast("Model", student), request, made.answer, class_names=names)


def _prefixed(split: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in figures.items()}
