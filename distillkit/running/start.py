"""Plan, run and resume: the library calls behind `distillkit plan` and `distillkit run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillkit.planning.make_plan import make_plan
from distillkit.planning.plan import Plan
from distillkit.planning.preflight import CheckedRecipe
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.files import load_recipe
from distillkit.recipe.schema import Recipe
from distillkit.running.checkpoint_folders import checkpoints
from distillkit.running.directory import RunDirectory
from distillkit.running.prepared import joined_processes, prepare_continued, prepare_new, train_prepared
from distillkit.running.resumed_settings import changed_settings, check_resumable
from distillkit.running.training_run import RunResult

__all__ = ["RunResult", "plan", "resume", "run"]


def plan(recipe: Recipe, plugins: PluginRegistry, checked: CheckedRecipe | None = None) -> Plan:
    """Make the plan of a recipe; loads no weights and trains nothing."""
    return make_plan(recipe, plugins, checked)


def run(
    recipe: Recipe,
    out: Path,
    plugins: PluginRegistry,
    checked: CheckedRecipe | None = None,
    *,
    observers: Sequence[object] = (),
) -> RunResult:
    """Train a student. Nothing is written before models, weights and data are known to work.

    `checked` is the result of `check_recipe`, if it was already called. `observers` are objects with
    life-cycle hooks, called in addition to the recipe's trackers.
    Raises: RunDirectoryError where `out` is not empty; all errors of planning and building; RunInterrupted after a
    stop signal, once the step is saved.
    """
    with joined_processes(recipe, {out: "new"}) as processes:
        prepared = prepare_new(recipe, out, plugins, checked, observers, processes)
        (outcome,) = train_prepared([prepared], processes)
        return _result(outcome)


def resume(
    path: Path, plugins: PluginRegistry, settings: Mapping[str, Any] | None = None, *, observers: Sequence[object] = ()
) -> RunResult:
    """Continue a run from its newest checkpoint, or from the start without one; exact on the same kind of device.

    `settings` are options of `load_recipe`, and `assignments`; only those in `resumed_settings` may differ from the
    run's. With a checkpoint, the student's initial weights are no longer needed; notes on them are in plan.json.
    Raises: RunDirectoryError where `path` is not a run, or is finished, or a setting must not change.
    """
    directory = RunDirectory(path)
    started = directory.read_unfinished_recipe()
    recipe = load_recipe(started, plugins=plugins, **(settings or {}))
    changed = changed_settings(started, recipe)
    check_resumable(changed, started, source=_weights_so_far(directory))
    with joined_processes(recipe, {path: "started"}) as processes:
        prepared = prepare_continued(recipe, directory, plugins, changed, observers, processes)
        (outcome,) = train_prepared([prepared], processes)
        return _result(outcome)


def _result(outcome: RunResult | Exception) -> RunResult:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _weights_so_far(directory: RunDirectory) -> Path | None:
    """The newest weights of a run that is not finished, from which another run can start; None before the first."""
    saved = checkpoints(directory.checkpoints)
    return saved[-1] if saved else directory.best if directory.best.is_dir() else None
