"""Runs that are planned and ready to be built: new ones, and ones that continue in their directories."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillkit.compute.distributed import Processes, process_group
from distillkit.errors import RunDirectoryError, UserError
from distillkit.messages.text import command
from distillkit.planning.make_plan import make_plan
from distillkit.recipe.stored_paths import edit_remedy, require_stored_paths
from distillkit.running import one_pass
from distillkit.running.checkpoint_folders import checkpoints
from distillkit.running.directory import RESUME_REMEDY, RunDirectory, check_same_start
from distillkit.running.session import TrainingSession, build_session
from distillkit.running.teacher_forms import with_recorded_forms
from distillkit.running.teachers import BuiltTeachers
from distillkit.running.training_run import RunResult, TrainingRun

if TYPE_CHECKING:
    from distillkit.planning.plan import Plan
    from distillkit.planning.preflight import CheckedRecipe
    from distillkit.plugin.registry import PluginRegistry
    from distillkit.recipe.schema import Recipe
    from distillkit.running.resumed_settings import Changed

State = Literal["new", "started"]
"""Whether a directory has a run."""


@dataclass(frozen=True)
class PreparedRun:
    """A run with its plan. `changed` are settings that differ from those with which it was started.

    `observers` are objects with life-cycle hooks, called in addition to the recipe's trackers. `has_checkpoint` is None
    for a new run.
    """

    plan: Plan
    directory: RunDirectory
    plugins: PluginRegistry
    observers: Sequence[object] = ()
    changed: Changed = field(default_factory=dict)
    has_checkpoint: bool | None = None

    def facts(self, session: TrainingSession) -> dict[str, Any]:
        """The plan as plain data. With a checkpoint, the initial weights may be gone, and their notes are read back."""
        facts = session.facts
        if not self.has_checkpoint:
            return facts
        written = self.directory.read_plan()
        facts |= {key: written[key] for key in ("notes", "resumed") if key in written}
        return facts | {"notes": list(dict.fromkeys((*facts["notes"], *session.form_notes)))}

    def write(self, facts: dict[str, Any], session: TrainingSession) -> None:
        """Create the directory of a new run, or describe one that starts again."""
        if self.has_checkpoint is None:
            self.directory.create(self.plan.recipe, facts, session.device)
        elif not self.has_checkpoint:
            self.directory.describe(facts, session.device)

    def discard_after(self, error: object) -> None:
        """Delete the directory of a new run that a UserError ended before its first checkpoint: an unreadable image."""
        # After a RunDirectoryError the files belong to another process, which trains there.
        is_ours = isinstance(error, UserError) and not isinstance(error, RunDirectoryError)
        if is_ours and self.has_checkpoint is None and not checkpoints(self.directory.checkpoints):
            shutil.rmtree(self.directory.path, ignore_errors=True)  # a mount point stays, but empty


def prepare_new(
    recipe: Recipe,
    out: Path,
    plugins: PluginRegistry,
    checked: CheckedRecipe | None,
    observers: Sequence[object],
    processes: Processes,
) -> PreparedRun:
    """A new run; `checked` is the result of `check_recipe`, if it was already called.

    Raises: RunDirectoryError where `out` of the first process is not empty; the errors of planning.
    """
    directory = RunDirectory(Path(processes.broadcast(str(out))))
    if processes.is_first:
        directory.check_free()  # before models are built, which takes long; `create` checks again
        directory.check_writable()
    return PreparedRun(make_plan(recipe, plugins, checked), directory, plugins, observers)


def prepare_continued(
    recipe: Recipe,
    directory: RunDirectory,
    plugins: PluginRegistry,
    changed: Changed,
    observers: Sequence[object],
    processes: Processes,
) -> PreparedRun:
    """A run that was started, with the recipe with which it continues."""
    if processes.is_first:
        directory.check_writable(RESUME_REMEDY)
    has_checkpoint = bool(processes.broadcast("yes" if checkpoints(directory.checkpoints) else ""))
    require_paths(recipe, directory.path, with_initial_weights=not has_checkpoint)
    if has_checkpoint:
        recipe = with_recorded_forms(recipe, directory.read_plan())
    plan = make_plan(recipe, plugins, resuming=has_checkpoint)
    return PreparedRun(plan, directory, plugins, observers, changed, has_checkpoint)


def train_prepared(prepared: Sequence[PreparedRun], processes: Processes) -> list[RunResult | Exception]:
    """Build the sessions of one or several runs, write their directories, and train, see `one_pass.train`.

    Nothing is written before all models, weights and data are known to work.
    """
    teachers = BuiltTeachers(with_digests=any(each.plan.bank is not None for each in prepared))
    sessions = [build_session(each.plan, processes, teachers) for each in prepared]
    facts = [each.facts(session) for each, session in zip(prepared, sessions, strict=True)]
    if processes.is_first:
        new = [(each, session) for each, session in zip(prepared, sessions, strict=True) if each.has_checkpoint is None]
        for each, _ in new:
            each.directory.check_space(sum(session.written_bytes for _, session in new))
        for each, session, described in zip(prepared, sessions, facts, strict=True):
            each.write(described, session)
    processes.barrier()  # the other processes need the directories
    runs = [
        TrainingRun(session, each.directory, each.plugins, each.observers, described, each.changed)
        for each, session, described in zip(prepared, sessions, facts, strict=True)
    ]
    outcomes: list[RunResult | Exception] = []
    try:
        outcomes = one_pass.train(runs)
    except UserError as error:
        outcomes = [error for _ in runs]
        raise
    finally:
        if processes.is_first:
            for each, outcome in zip(prepared, outcomes, strict=False):
                each.discard_after(outcome)
    return outcomes


def require_paths(recipe: Recipe, run: Path, *, with_initial_weights: bool) -> None:
    """Check that the paths in the recipe of a run that continues are found. A checkpoint replaces initial weights.

    Raises: RecipeError with the key to change.
    """
    if not with_initial_weights:
        recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update={"weights": None})})
    require_stored_paths(recipe, run, edit_remedy(run))


@contextmanager
def joined_processes(recipe: Recipe, states: Mapping[Path, State]) -> Iterator[Processes]:
    """Join the processes of these runs, after checking that all find the runs in the same states."""
    again = "continue with {} and as many processes".format(" or ".join(command("--resume", path) for path in states))
    is_new = "new" in states.values()
    remedy = f"{again}, or start again if there is no such run yet" if is_new else again
    with process_group(recipe.training.device, patience=recipe.training.patience, remedy=remedy) as processes:
        for path, state in states.items():
            check_same_start(processes, state, path)
        yield processes
