"""A search: trials one after the other or several at once, the worse ones pruned, the best one named at the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.errors import RecipeError, RunDirectoryError, RunInterrupted
from distillkit.messages.progress import ProgressDisplay
from distillkit.messages.text import command, counted
from distillkit.plugin.extras import require
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Recipe
from distillkit.running.directory import RunDirectory
from distillkit.running.metrics import METRICS, read_metrics
from distillkit.running.stop_signals import StopRequest
from distillkit.sweeping.arm_process import Ended
from distillkit.sweeping.arm_recipes import arm_recipe, arm_recipes, plan_all
from distillkit.sweeping.command_words import run_words
from distillkit.sweeping.drive import Job, Running, drive
from distillkit.sweeping.folder import SweepFolder
from distillkit.sweeping.grid import SweepArm
from distillkit.sweeping.progress import SweepProgress
from distillkit.sweeping.result import SweepResult, SweepRow, finished
from distillkit.sweeping.search_space import parse_space, probes
from distillkit.sweeping.slots import make_slots
from distillkit.sweeping.study import SearchSettings, SearchStudy, TrialRow
from distillkit.sweeping.sweep_table import SweepTable

if TYPE_CHECKING:
    from distillkit.planning.plan import Plan

FIGURE = "validation/top1"
"""What a search maximises: the student's top-1 on the validation images at the end of an epoch, in percent."""
TRACKER = "metrics"
"""The tracker whose file tells a search the figures of a running trial."""


@dataclass(frozen=True)
class SearchSweep:
    """A planned search; `space` has the texts of ranges and values by key."""

    folder: SweepFolder
    options: Mapping[str, Any]
    space: Mapping[str, str]
    recipe: Recipe
    plan: Plan
    settings: SearchSettings
    trials: int

    def arm(self, row: TrialRow) -> SweepArm:
        """The arm of a trial."""
        return SweepArm(trial_name(row.number), row.settings)

    def words(self, arm: SweepArm) -> list[str]:
        """The words after `distillkit` that start a trial, or continue it, without the search."""
        return run_words(self.options, arm.settings, self.folder.directory(arm.name))


def trial_name(number: int) -> str:
    """The name of a trial and of its run directory."""
    return f"trial-{number:03d}"


def plan_search(
    out: Path, options: Mapping[str, Any], space: Mapping[str, str], table: SweepTable, plugins: PluginRegistry
) -> SearchSweep:
    """Check a search: plan the recipe at every end of every range. Writes nothing.

    Raises: RecipeError where the recipe holds out no validation images; RunDirectoryError for a folder that is
    something else; MissingExtraError without Optuna; UserError with everything that is wrong.
    """
    require("optuna", what="a search")
    folder = SweepFolder(out)
    folder.check("search")
    settings = list(probes(parse_space(space)))
    names = [", ".join(f"{key}={text}" for key, text in each.items()) for each in settings]
    arms = [SweepArm(name, each) for name, each in zip(names, settings, strict=True)]
    plans = plan_all(arm_recipes(options, arms, plugins), plugins)
    plan = plans[names[0]]
    if any(not each.datasets.validation for each in plans.values()):
        raise RecipeError(
            "a search compares trials on validation images, and this recipe holds out none; give --validation 0.1, or "
            "a folder"
        )
    if not plan.student.learns_classes:
        raise RecipeError("a search compares top-1, and no loss term trains a class head; add a loss that does")
    if TRACKER not in plan.recipe.trackers:
        raise RecipeError(f"a search reads the figures of the tracker '{TRACKER}'; add it to trackers")
    epochs = -(-plan.steps // plan.steps_per_epoch)  # rounded up
    first = table.min_epochs or max(1, epochs // 10)
    found = SearchSettings(table.seed, table.keep, first, epochs)
    return SearchSweep(folder, options, space, arm_recipe(options, {}, plugins), plan, found, table.trials)


def run_search(sweep: SearchSweep, *, jobs: int | None, display: ProgressDisplay, again: str) -> SweepResult:
    """Run a planned search to its number of trials, `jobs` at once. `again` is the command that continues it.

    Raises: RunDirectoryError for a study of another recipe or search; RunInterrupted after a stop signal.
    """
    with sweep.folder.locked():
        slots = make_slots(jobs, [sweep.recipe])
        study = SearchStudy(sweep.folder.study, parse_space(sweep.space), sweep.settings, parallel=len(slots) > 1)
        study.claim(sweep.recipe, sweep.space)
        sweep.folder.write("search", [])
        trials = _TrialJobs(sweep, study, display)
        with StopRequest().listening() as stop:
            drive(trials, slots, stop, display.note)
        ended = [row for row in study.rows() if row.state != "running"]
        if stop.received is not None and len(ended) < sweep.trials:
            raise RunInterrupted(
                f"stopped by {stop.received.name}; {len(ended)} of {counted(sweep.trials, 'trial')} ended; to "
                f"continue: {again}",
                signal_number=stop.received,
            )
        sweep.folder.write("search", [sweep.arm(row) for row in study.rows()])
        return _result(sweep, study)


def _result(sweep: SearchSweep, study: SearchStudy) -> SweepResult:
    """The trials with their figures on validation images; figures on test images for the best one alone."""
    best = study.best()
    arms = []
    for row in study.rows():
        arm = sweep.arm(row)
        directory = sweep.folder.directory(arm.name)
        result = SweepRow(arm.name, arm.settings, directory, command("distillkit", *sweep.words(arm)))
        if row.state == "done":
            result = finished(result)
            if best is None or row.number != best.number:
                seen = {key: value for key, value in result.figures.items() if not key.startswith("test/")}
                result = replace(result, figures=seen)
        elif row.state == "pruned":
            figures = {} if row.value is None else {FIGURE: row.value}
            result = replace(result, state="pruned", why=f"after epoch {row.epoch}", figures=figures)
        else:
            result = replace(result, state="failed", why=row.error)
        arms.append(result)
    return SweepResult(
        sweep.folder.path, tuple(arms), best=None if best is None else sweep.arm(best).name, is_search=True
    )


class _TrialJobs:
    """The trials of a search: those that an earlier process left first, then new ones up to their number."""

    def __init__(self, sweep: SearchSweep, study: SearchStudy, display: ProgressDisplay) -> None:
        self._sweep, self._study, self._note = sweep, study, display.note
        self._left = deque(study.running())
        rows = study.rows()
        ended = sum(row.state != "running" for row in rows)
        self._numbers: dict[str, int] = {}
        self._pruned: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        names = [sweep.arm(row).name for row in self._left]
        names += [trial_name(number) for number in range(len(rows), sweep.trials)]
        steps = dict.fromkeys(names, sweep.plan.steps)
        self._progress = SweepProgress(display, steps, done=ended)

    def next(self) -> Job | None:
        while True:
            if self._left:
                row = self._left.popleft()
            elif len(self._study.rows()) < self._sweep.trials:
                row = self._study.ask()
            else:
                return None
            arm, folder = self._sweep.arm(row), self._sweep.folder
            directory = folder.directory(arm.name)
            self._numbers[arm.name] = row.number
            self._progress.started(arm.name, directory)
            job = Job(arm, self._sweep.words(arm), directory, folder.log(arm.name))
            # An earlier process may have been killed after the run had ended, or before it was pruned.
            if not self._settled(job):
                return job

    def watch(self, running: Sequence[Running]) -> None:
        self._progress.show(running)
        for each in running:
            arm = each.job.arm.name
            if arm not in self._pruned and self._report(each.job):
                each.process.stop()

    def ended(self, job: Job, how: Ended) -> None:
        if self._settled(job):
            return
        arm, why = job.arm.name, how.why or "it ended without a result"
        self._study.tell_failed(self._numbers[arm], why)
        self._note(f"{arm} failed: {why}; see {job.log}")
        self._progress.ended(arm, job.directory, failed=True)

    def _settled(self, job: Job) -> bool:
        """Tell the study the end of a trial if its run directory has one."""
        arm, number = job.arm.name, self._numbers[job.arm.name]
        self._report(job)
        if arm in self._pruned:
            self._study.tell_pruned(number, self._pruned[arm])
        elif RunDirectory(job.directory).result.is_file():
            figures = RunDirectory(job.directory).read_result()["figures"]
            self._study.tell_done(number, figures[FIGURE])
        else:
            return False
        self._progress.ended(arm, job.directory)
        return True

    def _report(self, job: Job) -> bool:
        """Report new figures of a trial. Returns: whether it is pruned."""
        arm, size = job.arm.name, _size(job.directory / METRICS)
        if arm not in self._pruned and size != self._seen.get(arm, 0):
            self._seen[arm] = size
            epoch = self._study.report(self._numbers[arm], epoch_figures(job.directory))
            if epoch is not None:
                self._pruned[arm] = epoch
        return arm in self._pruned


def _size(file: Path) -> int:
    """The size of a file in bytes; 0 if there is none."""
    return file.stat().st_size if file.is_file() else 0


def epoch_figures(directory: Path) -> dict[int, float]:
    """The top-1 on validation images by epoch, as far as a run has come."""
    try:
        rows = read_metrics(directory)
    except RunDirectoryError:
        return {}
    return {
        round(row["epoch"]): row[FIGURE]
        for row in rows
        if row["kind"] == "epoch" and isinstance(row.get(FIGURE), int | float)
    }
