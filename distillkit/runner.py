"""The library calls behind the verbs: plan, run, resume, evaluate."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

from torch import nn

from distillkit.checkpoint import (
    Checkpoint,
    checkpoint_at,
    checkpoints,
    clear_remains,
    newest_checkpoint,
    putting_back,
    read_checkpoint,
    write_checkpoint,
)
from distillkit.contracts import Model
from distillkit.data.batches import Window
from distillkit.data.tolerance import check_broken
from distillkit.errors import CheckpointError, RunDirectoryError, RunInterrupted, TrainingError, UserError
from distillkit.evaluation.evaluate import evaluate
from distillkit.files import recover_directory, whole_directory, write_json
from distillkit.hooks import Plugins
from distillkit.incidents import BrokenImage, Incidents, told
from distillkit.models.saved_student import save_student
from distillkit.outages import outage
from distillkit.planning.make import make_plan
from distillkit.planning.plan import Plan
from distillkit.processes import joined
from distillkit.recipe import Recipe
from distillkit.run_directory import RunDirectory, check_same_start
from distillkit.run_info import RunInfo
from distillkit.saved_step import save_step
from distillkit.session import Session, build_session
from distillkit.training.interruption import Interruption
from distillkit.training.loop import Callbacks, Record, Rhythm, train
from distillkit.training.meter import Meter
from distillkit.training.watch import Skipped, Watch

__all__ = ["RunResult", "evaluate", "plan", "resume", "run"]


@dataclass(frozen=True)
class RunResult:
    """Where a run is and what its student achieves; `figures` are in percent, as `<split>/<figure>`."""

    directory: Path
    figures: Mapping[str, float]
    steps: int


def plan(recipe: Recipe, plugins: Plugins) -> Plan:
    """Match everything that a recipe names; loads no weight and trains nothing."""
    return make_plan(recipe, plugins)


def run(recipe: Recipe, out: Path, plugins: Plugins, *, observers: Sequence[object] = ()) -> RunResult:
    """Train a student. Nothing is written before models, weights and data are known to work.

    `observers` are objects with life-cycle hooks that follow this run, beside the recipe's trackers.
    Raises: RunDirectoryError where `out` holds something already, and whatever planning and building raise;
    RunInterrupted where a signal asked for an end, once the step is saved.
    """
    with joined(recipe.training.device, patience=recipe.training.patience) as processes:
        check_same_start(processes, "new", out)
        directory = RunDirectory(Path(processes.from_first(str(out))))
        if processes.is_first:
            directory.check_free()
        session = build_session(make_plan(recipe, plugins), plugins, processes)
        facts = described(session)
        if processes.is_first:
            directory.create(recipe, facts, session.device)
        processes.wait()
        try:
            return _Run(session, directory, plugins, observers, facts).go()
        except RunDirectoryError:
            raise  # another process trains there: what is there is its own
        except UserError:
            # A broken image, say. Before the first checkpoint there is nothing to continue, so nothing is left behind.
            if processes.is_first and not checkpoints(directory.checkpoints):
                shutil.rmtree(directory.path)
            raise


def described(session: Session) -> dict[str, Any]:
    """The plan as plain data, with what building the models settled: device, precision, and further notes."""
    facts = session.plan.as_dict()
    arithmetic = str(session.precision).removeprefix("torch.")
    settled = {"device": str(session.device), "precision": arithmetic, "seed": session.plan.recipe.seed}
    return facts | settled | {"notes": [*facts["notes"], *session.notes]}


def resume(path: Path, plugins: Plugins, *, observers: Sequence[object] = ()) -> RunResult:
    """Continue a run from its newest checkpoint, or from the start where it has none; exact on one kind of device.

    With a checkpoint, what the student started from is no longer needed; what became of it then is in the plan.
    Raises: RunDirectoryError where `path` is not a run, or is finished.
    """
    directory = RunDirectory(path)
    recipe = directory.read_recipe()
    if directory.result.is_file():
        raise RunDirectoryError(f"{path} is finished; evaluate or export it, or give a new run more epochs")
    with joined(recipe.training.device, patience=recipe.training.patience) as processes:
        check_same_start(processes, "begun", path)
        goes_on = bool(processes.from_first("yes" if checkpoints(directory.checkpoints) else ""))
        session = build_session(make_plan(recipe, plugins, goes_on=goes_on), plugins, processes)
        facts = described(session)
        if goes_on:
            facts["notes"] = directory.read_plan()["notes"]
        elif processes.is_first:
            directory.describe(facts, session.device)
        return _Run(session, directory, plugins, observers, facts).go()


@dataclass
class _Run:
    """A session, its directory, its plan as plain data, and what must survive an interruption beside the weights."""

    session: Session
    directory: RunDirectory
    plugins: Plugins
    observers: Sequence[object]
    facts: Mapping[str, Any]
    best: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    incidents: Incidents = field(default_factory=Incidents)
    in_a_row: int = 0
    watch: Watch = field(init=False)
    interruption: Interruption = field(default_factory=Interruption)

    def __post_init__(self) -> None:
        self.meter = Meter(self.session.processes)

    def go(self) -> RunResult:
        """Restore, train, and leave a finished directory."""
        lock = self.directory.locked() if self.session.processes.is_first else nullcontext()
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
        start, passed_over = self._restore()
        info = RunInfo(
            self.directory.path,
            made.recipe.model_dump(mode="json"),
            {**self.facts, "notes": [*self.facts["notes"], *passed_over]},
            steps=made.steps,
            steps_per_epoch=made.steps_per_epoch,
            start_step=start,
            incidents=self.incidents,
        )
        if self.session.processes.is_first:
            self._followed(info)
        else:
            self._train(info)
            self._finish(info)
        return RunResult(self.directory.path, self.figures, made.steps)

    def _followed(self, info: RunInfo) -> None:
        """Train with the trackers of the recipe, and all others that follow."""
        trackers = [self.plugins.made("tracker", name) for name in info.recipe["trackers"]]
        self.plugins.follow(*trackers, *self.observers)
        try:
            self._follow_through(info)
        finally:
            self.plugins.unfollow(*trackers, *self.observers)

    def _follow_through(self, info: RunInfo) -> None:
        """Train and finish, and say so to those who follow, or why not."""
        self.plugins.run_started(info)
        try:
            self._train(info)
            self._finish(info)
        except BaseException as error:
            self.plugins.run_failed(info, error)
            raise
        self.plugins.run_ended(info, self.figures, self.session.models)
        self._write_result()

    def _restore(self) -> tuple[int, list[str]]:
        """The step to start from, that of the newest whole checkpoint or 0, and what is to be said of damaged ones."""
        processes = self.session.processes
        checkpoint: Checkpoint | None = None
        damaged: tuple[CheckpointError, ...] = ()
        if processes.is_first:
            recover_directory(self.directory.best)
            checkpoint, damaged = newest_checkpoint(self.directory.checkpoints)
            clear_remains(
                self.directory.checkpoints,
                keep=self.session.plan.recipe.training.keep,
                newest=checkpoint.step if checkpoint else 0,
            )
        chosen = processes.from_first(str(checkpoint.step) if checkpoint else "")
        if not chosen:
            return 0, []
        checkpoint = checkpoint or read_checkpoint(checkpoint_at(self.directory.checkpoints, int(chosen)))
        self.session.restore(checkpoint)
        with putting_back(checkpoint.step):
            progress = checkpoint.state["progress"]
            self.best = dict(progress["best"])
            self.figures = dict(progress["figures"])
            self.incidents = Incidents.from_dict(progress["incidents"])
            self.in_a_row = int(progress["skipped_in_a_row"])
            interval = progress["interval"]
            if len(interval) == processes.world:
                self.meter.restore(interval[processes.rank])
        return checkpoint.step, [f"{error}; the run goes on from step {checkpoint.step} instead" for error in damaged]

    def _train(self, info: RunInfo) -> None:
        made, training = self.session.plan, self.session.plan.recipe.training
        rhythm = Rhythm(
            made.steps, made.steps_per_epoch, training.log_every, training.evaluate_every, training.checkpoint_every
        )
        callbacks = Callbacks(
            logged=lambda record: self._logged(info, record),
            evaluate=self._evaluate,
            epoch_ended=lambda record: self._epoch_ended(info, record),
            save=lambda step: self._save(info, step),
            asked_to_stop=self._asked_to_stop,
        )
        self.watch = Watch(
            training.max_skipped,
            told=lambda skipped: self._skipped(info, skipped),
            give_up=self._give_up,
            in_a_row=self.in_a_row,
            scaler=self.session.optimisation.scaler,
            processes=self.session.processes,
        )
        windows = self.session.data.windows(info.start_step, made.steps)
        done = train(windows, self.session.stepper, self.watch, rhythm, callbacks, self.session.ema, self.meter)
        if self.interruption.asked is not None and done < made.steps:
            raise RunInterrupted(
                f"stopped by {self.interruption.asked.name} after step {done} of {made.steps}, which is saved; "
                f"to continue: distillkit run --resume {self.directory.path}",
                signal_number=self.interruption.asked,
            )

    def _asked_to_stop(self) -> bool:
        """Whether a signal reached any of the processes; all of them then stop after the same step."""
        number = self.session.processes.largest(self.interruption.asked or 0)
        self.interruption.asked = signal.Signals(number) if number else None
        return number > 0

    def _logged(self, info: RunInfo, record: Record) -> None:
        self._settle(info, int(record["step"]))
        if self.session.processes.is_first:
            self.plugins.steps_logged(info, record)

    def _epoch_ended(self, info: RunInfo, record: Record) -> None:
        self._settle(info, int(record["step"]))
        if self.session.processes.is_first:
            self.plugins.epoch_ended(info, record)

    def _settle(self, info: RunInfo, step: int) -> None:
        """Enter into the ledger what any process met since the last time, and tell of it.

        Raises: DataError, in all processes, where more images are unreadable than `data.broken` allows.
        """
        session = self.session
        met = [image for said in session.processes.gather(_said(session.broken)) for image in _heard(said)]
        session.broken.clear()
        new = self.incidents.add_broken(met)
        if not new:
            return
        if session.processes.is_first:
            write_json(self.directory.incidents, self.incidents.as_dict())
            for sentence in told(new):
                self.plugins.noted(info, step, sentence)
        check_broken(self.incidents, session.plan.datasets, session.plan.recipe.data.broken)

    def _skipped(self, info: RunInfo, skipped: Skipped) -> None:
        """Enter a skipped step into the ledger, and tell of the first in a row."""
        before = self.incidents.skipped[-1:]
        begins = skipped.in_a_row == 1 or (skipped.is_search and before != [skipped.step - 1])
        self.incidents.skipped.append(skipped.step)
        if not self.session.processes.is_first:
            return
        write_json(self.directory.incidents, self.incidents.as_dict())
        if begins:
            self.plugins.noted(info, skipped.step, skipped.note)

    def _give_up(self, window: Window, skipped: Skipped) -> NoReturn:
        """Save the step at hand, and end the run.

        Raises: TrainingError, in all processes.
        """
        many = skipped.in_a_row > 1
        steps = f"{skipped.in_a_row} steps in a row were skipped, up to step" if many else "skipped step"
        trouble = save_step(self.directory.saved_steps, self.session, window, skipped)
        why = (
            f"the step could not be saved ({trouble})"
            if trouble
            else f"to see why: distillkit replay {self.directory.path}"
        )
        raise TrainingError(
            f"{steps} {skipped.step:,}: {skipped.reason}; lower optimizer.lr, set training.clip, or use "
            f"training.precision=bf16 or fp32; {why}"
        )

    def _evaluate(self, step: int) -> Record:
        """Evaluate on the validation images; keep the student where it is the best so far."""
        session = self.session
        figures = _prefixed("validation", session.evaluate(session.task.student, "validation"))
        if session.ema is not None:
            figures |= _prefixed("validation/ema", session.evaluate(session.ema.module, "validation"))
        score = figures.get("validation/top1")
        if score is not None and score > self.best.get("top1", -1.0):
            self.best = {"top1": score, "step": float(step)}
            if session.processes.is_first:
                self._save_student(self.directory.best, session.task.student)
        self.figures = figures
        return figures

    def _save(self, info: RunInfo, step: int) -> None:
        self._settle(info, step)  # what was met before a checkpoint is in it
        interval = [json.loads(said) for said in self.session.processes.gather(json.dumps(self.meter.state()))]
        if not self.session.processes.is_first:
            return
        self.directory.require_there()
        progress = {
            "best": self.best,
            "figures": self.figures,
            "incidents": self.incidents.as_dict(),
            "interval": interval,
            "skipped_in_a_row": self.watch.in_a_row,
        }
        write_checkpoint(
            self.directory.checkpoints,
            self.session.checkpoint(step, progress),
            keep=self.session.plan.recipe.training.keep,
        )

    def _finish(self, info: RunInfo) -> None:
        """Evaluate on the test images, save the student, and say that the run is done."""
        session = self.session
        self.figures |= _prefixed("test", session.evaluate(session.task.student, "test"))
        if session.ema is not None:
            self.figures |= _prefixed("test/ema", session.evaluate(session.ema.module, "test"))
        if self.best:
            self.figures |= {"best/validation_top1": self.best["top1"], "best/step": self.best["step"]}
        self._settle(info, info.steps)
        if session.processes.is_first:
            self._write_students()

    def _write_students(self) -> None:
        session = self.session
        self.directory.require_there()
        if session.ema is not None:
            self._save_student(self.directory.ema, session.ema.module)
        self._write_student(self.directory.path, session.task.student)

    def _write_result(self) -> None:
        """What says that a run is finished, written when nothing is left to do."""
        result: dict[str, Any] = {"steps": self.session.plan.steps, "figures": self.figures}
        if self.incidents:
            result["incidents"] = self.incidents.summary()
        write_json(self.directory.result, result)

    def _save_student(self, directory: Path, student: nn.Module) -> None:
        with whole_directory(directory) as temporary:
            self._write_student(temporary, student)

    def _write_student(self, directory: Path, student: nn.Module) -> None:
        made = self.session.plan
        request, names = made.student.request, made.class_names
        save_student(directory, cast("Model", student), request, made.answer, class_names=names)


def _said(images: Sequence[BrokenImage]) -> str:
    return json.dumps(images)


def _heard(said: str) -> list[BrokenImage]:
    return [BrokenImage(*image) for image in json.loads(said)]


def _prefixed(split: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in figures.items()}
