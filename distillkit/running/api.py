"""The library calls behind the verbs: plan, run, resume."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillkit.compute.distributed import joined
from distillkit.errors import RunDirectoryError, UserError
from distillkit.planning.make_plan import make_plan
from distillkit.planning.plan import Plan
from distillkit.planning.render import plan_as_dict
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Recipe
from distillkit.running.checkpoint import checkpoints
from distillkit.running.directory import RunDirectory, check_same_start
from distillkit.running.session import TrainingSession, build_session
from distillkit.running.training_run import RunResult, TrainingRun

__all__ = ["RunResult", "plan", "resume", "run"]


def plan(recipe: Recipe, plugins: PluginRegistry) -> Plan:
    """Match everything that a recipe names; loads no weight and trains nothing."""
    return make_plan(recipe, plugins)


def run(recipe: Recipe, out: Path, plugins: PluginRegistry, *, observers: Sequence[object] = ()) -> RunResult:
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
            return TrainingRun(session, directory, plugins, observers, facts).go()
        except RunDirectoryError:
            raise  # another process trains there: what is there is its own
        except UserError:
            # A broken image, say. Before the first checkpoint there is nothing to continue, so nothing is left behind.
            if processes.is_first and not checkpoints(directory.checkpoints):
                shutil.rmtree(directory.path)
            raise


def described(session: TrainingSession) -> dict[str, Any]:
    """The plan as plain data, with what building the models settled: device, precision, and further notes."""
    facts = plan_as_dict(session.plan)
    arithmetic = str(session.precision).removeprefix("torch.")
    settled = {"device": str(session.device), "precision": arithmetic, "seed": session.plan.recipe.seed}
    return facts | settled | {"notes": [*facts["notes"], *session.notes]}


def resume(path: Path, plugins: PluginRegistry, *, observers: Sequence[object] = ()) -> RunResult:
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
        return TrainingRun(session, directory, plugins, observers, facts).go()
