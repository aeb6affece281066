"""Plan, run and resume: the library calls behind `distillkit plan` and `distillkit run`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from distillkit.compute.distributed import Processes, process_group
from distillkit.errors import RunDirectoryError, UserError
from distillkit.planning.make_plan import make_plan
from distillkit.planning.names import RecipePlugins
from distillkit.planning.plan import Plan
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Recipe
from distillkit.running.checkpoint import checkpoints
from distillkit.running.directory import RESUME_REMEDY, RunDirectory, check_same_start
from distillkit.running.session import build_session
from distillkit.running.training_run import RunResult, TrainingRun

__all__ = ["RunResult", "plan", "resume", "run"]


def plan(recipe: Recipe, plugins: PluginRegistry, recipe_plugins: RecipePlugins | None = None) -> Plan:
    """Make the plan of a recipe; loads no weights and trains nothing."""
    return make_plan(recipe, plugins, recipe_plugins)


def run(
    recipe: Recipe,
    out: Path,
    plugins: PluginRegistry,
    recipe_plugins: RecipePlugins | None = None,
    *,
    observers: Sequence[object] = (),
) -> RunResult:
    """Train a student. Nothing is written before models, weights and data are known to work.

    `recipe_plugins` are the plugins of the recipe, if they were already looked up. `observers` are objects with
    life-cycle hooks, called in addition to the recipe's trackers.
    Raises: RunDirectoryError where `out` is not empty; all errors of planning and building; RunInterrupted after a
    stop signal, once the step is saved.
    """
    with _processes(recipe, out, "new") as processes:
        directory = RunDirectory(Path(processes.broadcast(str(out))))
        if processes.is_first:
            directory.check_free()  # before models are built, which takes long; `create` checks again
            directory.check_writable()
        session = build_session(make_plan(recipe, plugins, recipe_plugins), processes)
        facts = session.facts
        if processes.is_first:
            directory.create(recipe, facts, session.device)
        processes.barrier()  # the other processes need the directory
        try:
            return TrainingRun(session, directory, plugins, observers, facts).run()
        except RunDirectoryError:
            raise  # another process trains there, and the files belong to it
        except UserError:
            # For example an unreadable image. Without a checkpoint there is nothing to continue: leave nothing behind.
            if processes.is_first and not checkpoints(directory.checkpoints):
                shutil.rmtree(directory.path, ignore_errors=True)  # a mount point stays, but empty
            raise


def resume(path: Path, plugins: PluginRegistry, *, observers: Sequence[object] = ()) -> RunResult:
    """Continue a run from its newest checkpoint, or from the start without one; exact on the same kind of device.

    With a checkpoint, the student's initial weights are no longer needed; notes on them are in plan.json.
    Raises: RunDirectoryError where `path` is not a run, or is finished.
    """
    directory = RunDirectory(path)
    recipe = directory.read_recipe()
    if directory.result.is_file():
        raise RunDirectoryError(f"{path} is finished; evaluate or export it, or start a new run with more epochs")
    with _processes(recipe, path, "started") as processes:
        if processes.is_first:
            directory.check_writable(RESUME_REMEDY)
        has_checkpoint = bool(processes.broadcast("yes" if checkpoints(directory.checkpoints) else ""))
        session = build_session(make_plan(recipe, plugins, resuming=has_checkpoint), processes)
        facts = session.facts
        if has_checkpoint:
            # The initial weights may be gone, so that a new plan lacks the notes on them.
            facts["notes"] = directory.read_plan()["notes"]
        elif processes.is_first:
            directory.describe(facts, session.device)
        return TrainingRun(session, directory, plugins, observers, facts).run()


@contextmanager
def _processes(recipe: Recipe, path: Path, state: Literal["new", "started"]) -> Iterator[Processes]:
    """Join the processes of this run, after checking that all find the run in `path` in the same state."""
    with process_group(recipe.training.device, patience=recipe.training.patience) as processes:
        check_same_start(processes, state, path)
        yield processes
