"""A sweep over a grid: plan all arms, then run those that are not done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.errors import RunDirectoryError, RunInterrupted
from distillkit.messages.progress import ProgressDisplay
from distillkit.messages.text import command, counted
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Recipe
from distillkit.running.directory import RunDirectory
from distillkit.running.metrics import failure, read_metrics
from distillkit.running.stop_signals import StopRequest
from distillkit.sweeping.arm_process import Ended
from distillkit.sweeping.arm_recipes import arm_recipes, plan_all
from distillkit.sweeping.command_words import run_words
from distillkit.sweeping.drive import Job, Running, drive
from distillkit.sweeping.folder import StateOnDisk, SweepFolder, states_of
from distillkit.sweeping.grid import SweepArm
from distillkit.sweeping.progress import SweepProgress
from distillkit.sweeping.result import SweepResult, SweepRow, finished
from distillkit.sweeping.slots import make_slots

if TYPE_CHECKING:
    from distillkit.planning.plan import Plan


@dataclass(frozen=True)
class GridSweep:
    """A planned sweep: its arms, their recipes and states, and the plans of those that have not started.

    `options` are those of `load_recipe` that all arms share.
    """

    folder: SweepFolder
    options: Mapping[str, Any]
    arms: Sequence[SweepArm]
    recipes: Mapping[str, Recipe]
    states: Mapping[str, StateOnDisk]
    plans: Mapping[str, Plan]

    def words(self, arm: SweepArm) -> list[str]:
        """The words after `distillkit` that start an arm, or continue it, without the sweep."""
        return run_words(self.options, arm.settings, self.folder.directory(arm.name))

    def steps(self) -> dict[str, int]:
        """The optimiser steps of every arm that is not done."""
        steps = {}
        for arm in self.arms:
            if self.states[arm.name] == "new":
                steps[arm.name] = self.plans[arm.name].steps
            elif self.states[arm.name] == "started":
                steps[arm.name] = _planned_steps(self.folder.directory(arm.name))
        return steps

    def result(self, failed: Mapping[str, str] | None = None) -> SweepResult:
        """The arms as they are in their directories now; `failed` are the errors of failed ones by name."""
        return SweepResult(self.folder.path, tuple(self._row(arm, failed or {}) for arm in self.arms))

    def _row(self, arm: SweepArm, failed: Mapping[str, str]) -> SweepRow:
        directory = self.folder.directory(arm.name)
        row = SweepRow(arm.name, arm.settings, directory, command("distillkit", *self.words(arm)))
        if arm.name in failed:
            return replace(row, state="failed", why=failed[arm.name])
        state = self.folder.state(arm.name, self.recipes[arm.name])
        why = failure(read_metrics(directory)) if state == "started" else None
        if why is not None:  # in an earlier call
            return replace(row, state="failed", why=why)
        return finished(row) if state == "done" else replace(row, state=state)


def plan_grid(out: Path, options: Mapping[str, Any], arms: Sequence[SweepArm], plugins: PluginRegistry) -> GridSweep:
    """Check a sweep and plan every arm that has not started. Writes nothing.

    Raises: RunDirectoryError for a folder that is something else; UserError with everything that is wrong.
    """
    folder = SweepFolder(out)
    folder.check("grid", [arm.name for arm in arms])
    recipes = arm_recipes(options, arms, plugins)
    states = states_of(folder, recipes)
    plans = plan_all({arm: recipe for arm, recipe in recipes.items() if states[arm] == "new"}, plugins)
    return GridSweep(folder, options, arms, recipes, states, plans)


def run_grid(sweep: GridSweep, *, jobs: int | None, display: ProgressDisplay, again: str) -> SweepResult:
    """Run the arms of a planned sweep that are not done, `jobs` at once. `again` is the command that continues it.

    Raises: RunDirectoryError where another process sweeps there; RunInterrupted after a stop signal.
    """
    with sweep.folder.locked():
        sweep.folder.write("grid", sweep.arms)
        grid = _GridJobs(sweep, SweepProgress(display, sweep.steps(), done=_done(sweep)), display.note)
        slots = make_slots(jobs, sweep.recipes.values())
        with StopRequest().listening() as stop:
            drive(grid, slots, stop, display.note)
        result = sweep.result(grid.failed)
        if stop.received is not None and len(result.in_state("done")) + len(grid.failed) < len(sweep.arms):
            raise RunInterrupted(
                f"stopped by {stop.received.name}; {len(result.in_state('done'))} of {counted(len(sweep.arms), 'arm')} "
                f"done; to continue: {again}",
                signal_number=stop.received,
            )
        return result


class _GridJobs:
    """The arms that are not done, those that have started first."""

    def __init__(self, sweep: GridSweep, progress: SweepProgress, note: Callable[[str], None]) -> None:
        left = [arm for arm in sweep.arms if sweep.states[arm.name] != "done"]
        self._queue = deque(sorted(left, key=lambda arm: sweep.states[arm.name] != "started"))
        self._sweep = sweep
        self._progress = progress
        self._note = note
        self.failed: dict[str, str] = {}

    def next(self) -> Job | None:
        if not self._queue:
            return None
        arm, folder = self._queue.popleft(), self._sweep.folder
        directory = folder.directory(arm.name)
        self._progress.started(arm.name, directory)
        return Job(arm, self._sweep.words(arm), directory, folder.log(arm.name))

    def watch(self, running: Sequence[Running]) -> None:
        self._progress.show(running)

    def ended(self, job: Job, how: Ended) -> None:
        failed = how.state != "done" or not RunDirectory(job.directory).result.is_file()
        if failed:
            self.failed[job.arm.name] = how.why or "it ended without a result"
            self._note(f"arm {job.arm.name} failed: {self.failed[job.arm.name]}; see {job.log}")
        self._progress.ended(job.arm.name, job.directory, failed=failed)


def _done(sweep: GridSweep) -> int:
    return sum(state == "done" for state in sweep.states.values())


def _planned_steps(directory: Path) -> int:
    """The steps in the plan of a started run; 0 if it was killed before it wrote its plan."""
    try:
        steps = RunDirectory(directory).read_plan().get("steps")
    except RunDirectoryError:
        return 0
    return steps if isinstance(steps, int) else 0
