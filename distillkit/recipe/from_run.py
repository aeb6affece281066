"""Start from a finished run (`--from`): inherit its recipe and its final weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from distillkit.contracts.student_directory import RECIPE, holds_student, is_run, run_of
from distillkit.errors import PluginError, RecipeError, RunDirectoryError
from distillkit.messages.text import command
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.overrides import UNSET, Tables, layered
from distillkit.recipe.schema import LossEntry, Recipe

OPTION = "--from"
IMAGE_KEYS = ("validation", "test", "unlabeled", "labels", "labeled_fraction")
"""The keys of `[data]` besides `train` that only make sense for the images of the run."""


@dataclass(frozen=True)
class ParentRun:
    """The run to start from: its directory, and the directory of the student whose weights are loaded.

    `student` is the run directory itself, for the student after the last step, or best/, ema/ or a checkpoint in it.
    """

    directory: Path
    student: Path

    @property
    def recipe_path(self) -> Path:
        """The file of its resolved recipe."""
        return self.directory / RECIPE


def find_parent_run(path: Path) -> ParentRun:
    """The run at `path`: a finished run directory, or the directory of one of its students.

    Raises: RunDirectoryError if it is not a run directory, or the run is not finished.
    """
    if not path.is_dir():
        raise RunDirectoryError(f"there is no run directory '{path}'; check the path")
    if is_run(path):
        if not (path / "result.json").is_file():
            best = f", or give its best student so far, {path / 'best'}" if (path / "best").is_dir() else ""
            resumed = command("--resume", path)
            raise RunDirectoryError(f"the run {path} is not finished; continue it with {resumed}{best}")
        return ParentRun(path, path)
    run = run_of(path)
    if run is not None and holds_student(path):
        return ParentRun(run, path)
    raise RunDirectoryError(f"'{path}' is not a run directory (it has no recipe.toml); {OPTION} needs one")


def inherit(run: ParentRun, recipe: Recipe, above: Sequence[Tables]) -> Tables:
    """The tables of the run's `recipe`, overridden by the layers `above`, the lowest first.

    The student starts from the run's weights. `about` is not inherited. If a layer names other training images, neither
    are the keys in `IMAGE_KEYS`, except a share to hold out; a note lists them.
    Raises: RecipeError if a layer sets student.weights.
    """
    if any("weights" in _table(tables, "student") for tables in above):
        raise RecipeError(
            f"{OPTION} {run.student} and student.weights (--student-weights) both set the initial weights of the "
            "student; leave one of them out"
        )
    base = recipe.model_dump(exclude_none=True)
    base["about"] = {}  # it describes the recipe of the finished run, not the new one
    if dropped := _not_inherited(base["data"], above):
        base["data"] = {key: value for key, value in base["data"].items() if key not in dropped}
        base["about"] = {"notes": [_note(run, dropped)]}
    tables = reduce(layered, above, base)
    tables["student"]["weights"] = str(run.student)
    return tables


def without_unread_teachers(recipe: Recipe, parent: Recipe, plugins: PluginRegistry) -> Recipe:
    """The recipe without those teachers of its parent that its own losses do not read; a note names them."""
    if recipe.losses == parent.losses:
        return recipe
    readers = [loss for loss in recipe.distilling_losses if _may_read_teachers(loss, plugins)]
    read = [teacher for loss in readers if (teacher := recipe.teacher_of(loss)) is not None]
    unread = [teacher for teacher in recipe.teachers if teacher in parent.teachers and teacher not in read]
    if not unread:
        return recipe
    names = ", ".join(f"'{teacher.name}'" for teacher in unread)
    what = f"teacher {names} is" if len(unread) == 1 else f"teachers {names} are"
    notes = (*recipe.about.notes, f"{what} not inherited, because no loss reads {'it' if len(unread) == 1 else 'them'}")
    return recipe.model_copy(
        update={
            "teachers": tuple(teacher for teacher in recipe.teachers if teacher not in unread),
            "about": recipe.about.model_copy(update={"notes": notes}),
        }
    )


def _may_read_teachers(loss: LossEntry, plugins: PluginRegistry) -> bool:
    try:
        return bool(plugins.find("loss", loss.loss).spec.signals)
    except PluginError:
        return True  # reported when the plugins of the recipe are looked up


def _not_inherited(data: Tables, above: Sequence[Tables]) -> Tables:
    """The keys of the run's `data` that do not apply to the training images of the layers `above`, if those differ."""
    given: Tables = {}
    for tables in above:
        given = {**given, **_table(tables, "data")}
    if _images({**data, **given}) == _images(data):
        return {}
    is_share = isinstance(data.get("validation"), float | int)  # a share can be held out of any images
    kept = {"train", *given, *({"validation"} if is_share else ())}
    return {key: data[key] for key in IMAGE_KEYS if key in data and key not in kept}


def _note(run: ParentRun, dropped: Tables) -> str:
    *most, last = (f"data.{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in dropped.items())
    listed = f"{', '.join(most)} and {last} are" if most else f"{last} is"
    return f"trains on other images than {run.directory}, so {listed} not inherited"


def _table(tables: Tables, name: str) -> Mapping[str, Any]:
    found = tables.get(name)
    return found if isinstance(found, Mapping) else {}


def _images(data: Mapping[str, Any]) -> Any:
    """The training images; `data.unlabeled` only if `data.train` is not set."""
    named = [data[key] for key in ("train", "unlabeled") if data.get(key, UNSET) is not UNSET]
    return named[0] if named else "digits"
