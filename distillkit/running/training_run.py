"""A training run in its directory: restore the newest checkpoint, train, evaluate, save the student."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

from distillkit.contracts.incidents import Incidents
from distillkit.contracts.model import Model
from distillkit.contracts.run import LiveObserver, Record, RunInfo
from distillkit.data.batches import Window
from distillkit.errors import CheckpointError, RunInterrupted
from distillkit.messages.text import command, counted
from distillkit.models.saved_student import save_student
from distillkit.plugin.registry import PluginRegistry
from distillkit.running.checkpoint import (
    Checkpoint,
    delete_leftovers,
    newest_checkpoint,
    read_checkpoint,
    restoring,
    write_checkpoint,
)
from distillkit.running.checkpoint_folders import checkpoint_at
from distillkit.running.directory import RunDirectory
from distillkit.running.incident_log import IncidentLog
from distillkit.running.prepare_losses import prepare_session
from distillkit.running.resumed_settings import Changed, as_entry, notes_of
from distillkit.running.run_bank import counted_targets, gathered_notes
from distillkit.running.run_times import run_times
from distillkit.running.session import TrainingSession
from distillkit.running.stop_signals import StopRequest
from distillkit.running.system_faults import system_fault
from distillkit.running.teacher_accuracy import TeacherAccuracy, evaluate_teachers, with_accuracies
from distillkit.storage.atomic import write_json
from distillkit.storage.atomic_directory import atomic_directory, recover_directory
from distillkit.training.interval_averages import IntervalAverages
from distillkit.training.loop import Callbacks, Intervals, train
from distillkit.training.skipped_steps import SkippedSteps

LIVE_EVERY_S = 1.0
"""Seconds between two updates of the progress: reading the loss waits for the device."""


@dataclass(frozen=True)
class RunResult:
    """The run directory and the student's figures, named `<split>/<figure>`; accuracies are in percent.

    `skipped` counts the steps, of `steps`, with a loss or gradient that was not finite; they changed no weight.
    """

    directory: Path
    figures: Mapping[str, float]
    steps: int
    skipped: int = 0


class TrainingRun:
    """Trains in a run directory, from its newest checkpoint to `result.json`; `facts` are the plan as plain data.

    `changed` are settings that differ from those of the run so far.
    Each process has one and drives `run`. Only the first process locks the directory, writes and calls the hooks.
    """

    def __init__(
        self,
        session: TrainingSession,
        directory: RunDirectory,
        plugins: PluginRegistry,
        observers: Sequence[object],
        facts: Mapping[str, Any],
        changed: Changed | None = None,
    ) -> None:
        plan, training = session.plan, session.plan.recipe.training
        self.session = session
        self.directory = directory
        self.plugins = plugins.copy()  # the observers of this run are called for no other
        self.observers = observers
        self.changed = changed or {}
        self.processes = session.processes
        self.best: dict[str, float] = {}
        self.figures: dict[str, float] = {}
        self.bank_counts: dict[str, dict[str, int]] = {}
        self.runs_in_pass = 1
        """Number of runs that share the windows, this one included: its times are those of all."""
        self.teachers: dict[str, Any] = {}
        """Accuracy of each evaluated teacher, as plain data."""
        self.incidents = Incidents()
        self.info = RunInfo(
            directory.path,
            plan.recipe.model_dump(mode="json"),
            facts,
            steps=plan.steps,
            steps_per_epoch=plan.steps_per_epoch,
            incidents=self.incidents,
        )
        self.live = [each for each in observers if isinstance(each, LiveObserver)] if self.processes.is_first else []
        self.next_live_s = 0.0
        self.losses: dict[str, float] = {}
        self.averages = IntervalAverages(self.processes)
        self.incident_log = IncidentLog(session, directory, self.incidents, note=self._note)
        self.skipped_steps = SkippedSteps(
            training.max_skipped,
            on_skipped=self.incident_log.add_skipped,
            give_up=self.incident_log.give_up,
            scaler=session.optimisation.scaler,
            processes=self.processes,
        )
        self.intervals = Intervals(
            plan.steps, plan.steps_per_epoch, training.log_every, training.evaluate_every, training.checkpoint_every
        )

    def run(self, stop_request: StopRequest) -> Generator[int, Window | None, RunResult]:
        """Restore the newest checkpoint, train, evaluate, and write the results.

        A generator: it yields the number of the window that it needs next, and receives that window, or None to stop
        because of `stop_request`; see `one_pass.train`.

        Raises: RunDirectoryError where another process trains there; RunInterrupted after a stop signal, once the step
        is saved; SkippedStepsError after too many skipped steps in a row; TrainingError for a system fault.
        """
        lock = self.directory.locked() if self.processes.is_first else nullcontext()
        with lock:
            try:
                self._restore()
                prepare_session(self.session, resumed=self.info.start_step > 0)
                with self._observed():
                    self._evaluate_teachers()
                    done = yield from train(
                        self.session.stepper,
                        self.skipped_steps,
                        self.intervals,
                        Callbacks(self._logged, self._evaluate, self._epoch_ended, self._save, self._stepped),
                        self.session.ema,
                        self.averages,
                        self.info.start_step,
                    )
                    self._raise_if_stopped(done, stop_request.received)
                    self._finish()
                self._write_result()
                return RunResult(
                    self.directory.path, self.figures, self.info.steps, skipped=len(self.incidents.skipped)
                )
            except Exception as error:
                fault = system_fault(error, self.directory.path)
                if fault is None:
                    raise
            # Outside the `except` block: the original error's frames would keep the loader workers alive, and torch
            # would raise their death again.
            raise fault

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """Register trackers and observers; call their hooks for the start and the end or failure of the run."""
        if not self.processes.is_first:
            yield
            return
        trackers = [tracker.create() for tracker in self.session.plan.trackers]
        self.plugins.add_observers(*trackers, *self.observers)
        self.plugins.run_started(self.info)
        try:
            yield
        except BaseException as error:
            self.plugins.run_failed(self.info, error)
            raise
        self.plugins.run_ended(self.info, self.figures, self.session.models)

    def _restore(self) -> None:
        """Restore the newest intact checkpoint, if any; record changed settings, and add the notes on resuming."""
        checkpoint, damaged = self._newest_checkpoint()
        step = checkpoint.step if checkpoint else 0
        notes = [f"{error}; the run continues from step {step} instead" for error in damaged]
        if checkpoint is not None:
            self.session.restore(checkpoint)
            with restoring(step):
                started_with = self._restore_progress(checkpoint.state["progress"])
            if started_with != self.processes.world:
                notes.append(
                    f"the run was started with {counted(started_with, 'process')} and continues with "
                    f"{self.processes.world}: same batches, but results may differ in the last bits"
                )
        resumed = [*self.info.plan.get("resumed", [])]
        if self.changed:
            resumed.append(as_entry(step, self.changed))
            if self.processes.is_first:
                self.directory.record_changes(step, self.changed)
        plan = with_accuracies(self.info.plan, self.teachers)
        facts = {**plan, "notes": [*plan["notes"], *notes_of(resumed), *notes]}
        facts |= {"resumed": resumed} if resumed else {}
        self.info = replace(self.info, plan=facts, start_step=step)

    def _evaluate_teachers(self) -> None:
        """Evaluate the teachers before the first step, with a note on each that sees too little; not after a resume."""
        if self.info.start_step:
            return
        found = evaluate_teachers(self.session)
        self.teachers = {name: accuracy.as_dict() for name, accuracy in found.items()}
        self.incident_log.collect_broken(0)
        if not found or not self.processes.is_first:
            return
        warnings = [warning for name, accuracy in found.items() if (warning := self._warning(name, accuracy))]
        plan = with_accuracies(self.info.plan, self.teachers)
        self.info = replace(self.info, plan={**plan, "notes": [*plan["notes"], *warnings]})
        self.directory.write_plan(self.info.plan)
        for warning in warnings:
            self._note(0, warning)

    def _warning(self, name: str, accuracy: TeacherAccuracy) -> str | None:
        teachers = self.session.plan.teachers
        key = "teacher.size" if len(teachers) == 1 else f"teachers.{name}.size"
        return accuracy.warning(name, teachers[name].native.image_size, key)

    def _newest_checkpoint(self) -> tuple[Checkpoint | None, tuple[CheckpointError, ...]]:
        """The newest intact checkpoint, chosen by the first process, and the errors of newer, damaged ones."""
        checkpoint: Checkpoint | None = None
        damaged: tuple[CheckpointError, ...] = ()
        if self.processes.is_first:
            recover_directory(self.directory.best)
            checkpoint, damaged = newest_checkpoint(self.directory.checkpoints)
            delete_leftovers(
                self.directory.checkpoints,
                keep=self.session.plan.recipe.training.keep,
                newest=checkpoint.step if checkpoint else 0,
            )
        # All processes must restore the same step: the first one chooses it, the others read that checkpoint.
        step = self.processes.broadcast(str(checkpoint.step) if checkpoint else "")
        if step and checkpoint is None:
            checkpoint = read_checkpoint(checkpoint_at(self.directory.checkpoints, int(step)))
        return checkpoint, damaged

    def _progress(self) -> dict[str, Any]:
        """The state of the run in a checkpoint, besides the session; `interval` has the sums by rank."""
        return {
            "best": self.best,
            "figures": self.figures,
            "teachers": self.teachers,
            "losses": self.losses,
            "incidents": self.incidents.as_dict(),
            "skipped_in_a_row": self.skipped_steps.in_a_row,
            "interval": [json.loads(state) for state in self.processes.gather(json.dumps(self.averages.state()))],
        }

    def _restore_progress(self, progress: Mapping[str, Any]) -> int:
        """The inverse of `_progress`; returns the number of processes that wrote it."""
        self.best = dict(progress["best"])
        self.figures = dict(progress["figures"])
        self.teachers = dict(progress.get("teachers", {}))  # earlier versions did not evaluate teachers
        self.losses = dict(progress.get("losses", {}))  # checkpoints of earlier versions have none
        saved = Incidents.from_dict(progress["incidents"])
        self.incidents.add_broken(saved.broken)
        self.incidents.skipped += saved.skipped
        self.skipped_steps.in_a_row = int(progress["skipped_in_a_row"])
        interval = list(progress["interval"])
        # With another number of processes the interval restarts: its averages are only logged.
        if len(interval) == self.processes.world:
            self.averages.restore(interval[self.processes.rank])
        return len(interval)

    def _raise_if_stopped(self, done: int, received: signal.Signals | None) -> None:
        steps = self.info.steps
        if received is not None and done < steps:
            # A launcher kills all processes once one has ended, and the first one may still be saving.
            self.processes.barrier()
            raise RunInterrupted(
                f"stopped by {received.name} after step {done} of {steps}; a checkpoint is saved; "
                f"to continue: {command('distillkit', 'run', '--resume', self.directory.path)}"
                f"{self.processes.nproc_option}",
                signal_number=received,
            )

    def _note(self, step: int, note: str) -> None:
        self.plugins.noted(self.info, step, note)

    def _note_bank(self, step: int) -> None:
        for note in gathered_notes(self.session.bank, self.processes):
            self._note(step, note)

    def _stepped(self, done: int, ends_epoch: bool) -> None:  # noqa: FBT001 - a callback of the loop
        """Show the progress after a step, at most once per second and at the end of an epoch."""
        now_s = time.monotonic()
        if not self.live or (now_s < self.next_live_s and not ends_epoch):
            return
        self.next_live_s = now_s + LIVE_EVERY_S
        place = {"step": float(done), "epoch": done / self.info.steps_per_epoch}
        record = {**place, **(self.averages.so_far() or {}), "lr": self.session.optimisation.lr()}
        for observer in self.live:
            observer.progressed(self.info, record)

    def _evaluating(self, split: str, images: int, total: int) -> None:
        for observer in self.live:
            observer.evaluating(split, images, total)

    def _logged(self, record: Record) -> None:
        self.losses = {name: value for name, value in record.items() if name.partition("/")[0] == "loss"}
        self.incident_log.collect_broken(int(record["step"]))
        self._note_bank(int(record["step"]))
        if self.processes.is_first:
            self.plugins.steps_logged(self.info, record)

    def _epoch_ended(self, record: Record) -> None:
        self.incident_log.collect_broken(int(record["step"]))
        if self.processes.is_first:
            self.plugins.epoch_ended(self.info, record)

    def _evaluate(self, step: int) -> Record:
        """Evaluate on the validation images; save the student in best/ if its top-1 is the best so far."""
        self.figures = self._figures("validation")
        score = self.figures.get("validation/top1")
        if score is not None and score > self.best.get("top1", -1.0):
            self.best = {"top1": score, "step": float(step)}
            if self.processes.is_first:
                self._save_student(self.directory.best, self.session.task.student)
        return self.figures

    def _save(self, step: int) -> None:
        self.incident_log.collect_broken(step)  # a checkpoint holds the incidents up to its step
        progress = self._progress()
        if not self.processes.is_first:
            return
        self.directory.require_exists()
        checkpoint = self.session.checkpoint(step, progress)
        write_checkpoint(self.directory.checkpoints, checkpoint, keep=self.session.plan.recipe.training.keep)

    def _finish(self) -> None:
        """Evaluate on the test images and save the student and its EMA."""
        self.figures |= self._figures("test")
        if self.best:
            self.figures |= {"best/validation_top1": self.best["top1"], "best/step": self.best["step"]}
        self.incident_log.collect_broken(self.info.steps)
        self.bank_counts = counted_targets(self.session.bank, self.processes)
        self._note_bank(self.info.steps)
        if not self.processes.is_first:
            return
        self.incident_log.find_lost_classes(self.info.steps)
        self.directory.require_exists()
        if self.session.ema is not None:
            self._save_student(self.directory.ema, self.session.ema.module)
        self._write_student(self.directory.path, self.session.task.student)

    def _write_result(self) -> None:
        """Write result.json, which marks the run as finished, as the last file."""
        if not self.processes.is_first:
            return
        plan = self.session.plan
        result: dict[str, Any] = {"steps": self.info.steps, "figures": self.figures}
        result |= {"losses": self.losses, "loss": plan.formula, "seed": plan.recipe.seed}
        result |= run_times(self.directory.environment)
        if self.runs_in_pass > 1:
            result["runs_in_pass"] = self.runs_in_pass
        if self.session.data.facts:
            result["loader"] = self.session.data.facts
        if self.teachers:
            result["teachers"] = self.teachers
        if self.incidents:
            result["incidents"] = self.incidents.summary()
        if self.bank_counts:
            result["bank"] = self.bank_counts
        write_json(self.directory.result, result)

    def _figures(self, split: Literal["validation", "test"]) -> dict[str, float]:
        """Figures of the student and of its EMA, if any, on a split."""
        session = self.session
        report = self._evaluating if self.live else None
        figures = _prefixed(split, session.evaluate(session.task.student, split, report))
        if session.ema is not None:
            figures |= _prefixed(f"{split}/ema", session.evaluate(session.ema.module, split, report))
        return figures

    def _save_student(self, directory: Path, student: nn.Module) -> None:
        with atomic_directory(directory) as temporary:
            self._write_student(temporary, student)

    def _write_student(self, directory: Path, student: nn.Module) -> None:
        plan = self.session.plan
        request, names = plan.student.request, plan.class_names
        licences = plan.student.spec.taught_under
        save_student(directory, cast("Model", student), request, plan.answer, class_names=names, taught_under=licences)


def _prefixed(split: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in figures.items()}
