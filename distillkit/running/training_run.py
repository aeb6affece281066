"""A training run in its directory: restore the newest checkpoint, train, evaluate, save the student."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

from distillkit.contracts.incidents import Incidents
from distillkit.contracts.model import Model
from distillkit.contracts.run import Record, RunInfo
from distillkit.errors import CheckpointError, RunInterrupted
from distillkit.messages.text import counted
from distillkit.models.saved_student import save_student
from distillkit.plugin.registry import PluginRegistry
from distillkit.running.checkpoint import (
    Checkpoint,
    checkpoint_at,
    delete_leftovers,
    newest_checkpoint,
    read_checkpoint,
    restoring,
    write_checkpoint,
)
from distillkit.running.directory import RunDirectory
from distillkit.running.incident_log import IncidentLog
from distillkit.running.session import TrainingSession
from distillkit.running.stop_signals import StopRequest
from distillkit.running.system_faults import system_fault
from distillkit.storage.atomic import write_json
from distillkit.storage.atomic_directory import atomic_directory, recover_directory
from distillkit.training.interval_averages import IntervalAverages
from distillkit.training.loop import Callbacks, Intervals, train
from distillkit.training.skipped_steps import SkippedSteps


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

    Each process has one and calls `run`. Only the first process locks the directory, writes and calls the hooks.
    """

    def __init__(
        self,
        session: TrainingSession,
        directory: RunDirectory,
        plugins: PluginRegistry,
        observers: Sequence[object],
        facts: Mapping[str, Any],
    ) -> None:
        plan, training = session.plan, session.plan.recipe.training
        self.session = session
        self.directory = directory
        self.plugins = plugins
        self.observers = observers
        self.processes = session.processes
        self.best: dict[str, float] = {}
        self.figures: dict[str, float] = {}
        self.incidents = Incidents()
        self.info = RunInfo(
            directory.path,
            plan.recipe.model_dump(mode="json"),
            facts,
            steps=plan.steps,
            steps_per_epoch=plan.steps_per_epoch,
            incidents=self.incidents,
        )
        self.stop_request = StopRequest()
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

    def run(self) -> RunResult:
        """Restore the newest checkpoint, train, evaluate, and write the results.

        Raises: RunDirectoryError where another process trains there; RunInterrupted after a stop signal, once the step
        is saved; TrainingError after too many skipped steps in a row, or for a system fault.
        """
        session = self.session
        lock = self.directory.locked() if self.processes.is_first else nullcontext()
        with lock, self.stop_request.listening():
            try:
                self._restore()
                with self._observed():
                    done = train(
                        session.data.windows(self.info.start_step, self.info.steps),
                        session.stepper,
                        self.skipped_steps,
                        self.intervals,
                        Callbacks(self._logged, self._evaluate, self._epoch_ended, self._save, self._should_stop),
                        session.ema,
                        self.averages,
                    )
                    self._raise_if_stopped(done)
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
        try:
            self.plugins.run_started(self.info)
            try:
                yield
            except BaseException as error:
                self.plugins.run_failed(self.info, error)
                raise
            self.plugins.run_ended(self.info, self.figures, self.session.models)
        finally:
            self.plugins.remove_observers(*trackers, *self.observers)

    def _restore(self) -> None:
        """Restore the newest intact checkpoint, if any; add notes on damaged ones and on another process count."""
        checkpoint, damaged = self._newest_checkpoint()
        if checkpoint is None:
            return
        self.session.restore(checkpoint)
        with restoring(checkpoint.step):
            started_with = self._restore_progress(checkpoint.state["progress"])
        notes = [f"{error}; the run continues from step {checkpoint.step} instead" for error in damaged]
        if started_with != self.processes.world:
            notes.append(
                f"the run was started with {counted(started_with, 'process')} and continues with "
                f"{self.processes.world}: same batches, but results may differ in the last bits"
            )
        facts = {**self.info.plan, "notes": [*self.info.plan["notes"], *notes]}
        self.info = replace(self.info, plan=facts, start_step=checkpoint.step)

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
            "incidents": self.incidents.as_dict(),
            "skipped_in_a_row": self.skipped_steps.in_a_row,
            "interval": [json.loads(state) for state in self.processes.gather(json.dumps(self.averages.state()))],
        }

    def _restore_progress(self, progress: Mapping[str, Any]) -> int:
        """The inverse of `_progress`; returns the number of processes that wrote it."""
        self.best = dict(progress["best"])
        self.figures = dict(progress["figures"])
        saved = Incidents.from_dict(progress["incidents"])
        self.incidents.add_broken(saved.broken)
        self.incidents.skipped += saved.skipped
        self.skipped_steps.in_a_row = int(progress["skipped_in_a_row"])
        interval = list(progress["interval"])
        # With another number of processes the interval restarts: its averages are only logged.
        if len(interval) == self.processes.world:
            self.averages.restore(interval[self.processes.rank])
        return len(interval)

    def _should_stop(self) -> bool:
        """Whether any process received a stop signal; then all stop after the same step."""
        number = self.processes.max(self.stop_request.received or 0)
        self.stop_request.received = signal.Signals(number) if number else None
        return number > 0

    def _raise_if_stopped(self, done: int) -> None:
        received, steps = self.stop_request.received, self.info.steps
        if received is not None and done < steps:
            # A launcher kills all processes once one has ended, and the first one may still be saving.
            self.processes.barrier()
            raise RunInterrupted(
                f"stopped by {received.name} after step {done} of {steps}; a checkpoint is saved; "
                f"to continue: distillkit run --resume {self.directory.path}{self.processes.nproc_option}",
                signal_number=received,
            )

    def _note(self, step: int, note: str) -> None:
        self.plugins.noted(self.info, step, note)

    def _logged(self, record: Record) -> None:
        self.incident_log.collect_broken(int(record["step"]))
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
        if not self.processes.is_first:
            return
        self.directory.require_exists()
        if self.session.ema is not None:
            self._save_student(self.directory.ema, self.session.ema.module)
        self._write_student(self.directory.path, self.session.task.student)

    def _write_result(self) -> None:
        """Write result.json, which marks the run as finished, as the last file."""
        if not self.processes.is_first:
            return
        result: dict[str, Any] = {"steps": self.info.steps, "figures": self.figures}
        if self.incidents:
            result["incidents"] = self.incidents.summary()
        write_json(self.directory.result, result)

    def _figures(self, split: Literal["validation", "test"]) -> dict[str, float]:
        """Figures of the student and of its EMA, if any, on a split."""
        session = self.session
        figures = _prefixed(split, session.evaluate(session.task.student, split))
        if session.ema is not None:
            figures |= _prefixed(f"{split}/ema", session.evaluate(session.ema.module, split))
        return figures

    def _save_student(self, directory: Path, student: nn.Module) -> None:
        with atomic_directory(directory) as temporary:
            self._write_student(temporary, student)

    def _write_student(self, directory: Path, student: nn.Module) -> None:
        plan = self.session.plan
        request, names = plan.student.request, plan.class_names
        save_student(directory, cast("Model", student), request, plan.answer, class_names=names)


def _prefixed(split: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in figures.items()}
