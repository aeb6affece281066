"""Start from a finished run (`--from`): inherit its recipe and its final weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from distillkit.errors import RecipeError, RunDirectoryError
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.overrides import UNSET, Tables, layered
from distillkit.recipe.schema import Recipe

OPTION = "--from"
IMAGE_KEYS = ("validation", "test", "unlabeled", "labels", "labeled_fraction")
"""The keys of `[data]` besides `train` that only make sense for the images of the run."""


@dataclass(frozen=True)
class ParentRun:
    """The run to start from: its directory, and the directory of the student whose weights are loaded.

    `student` is the run directory itself, for the student after the last step, or best/ or ema/ in it.
    """

    directory: Path
    student: Path

    @property
    def recipe_path(self) -> Path:
        """The file of its resolved recipe."""
        return self.directory / "recipe.toml"


def find_parent_run(path: Path) -> ParentRun:
    """The run at `path`: a finished run directory, or the directory of one of its students.

    Raises: RunDirectoryError if it is not a run directory, or the run is not finished.
    """
    if not path.is_dir():
        raise RunDirectoryError(f"there is no run directory '{path}'; check the path")
    if (path / "recipe.toml").is_file():
        if not (path / "result.json").is_file():
            best = f", or give its best student so far, {path / 'best'}" if (path / "best").is_dir() else ""
            raise RunDirectoryError(f"the run {path} is not finished; continue it with --resume {path}{best}")
        return ParentRun(path, path)
    if (path / "student.json").is_file() and (path.parent / "recipe.toml").is_file():
        return ParentRun(path.parent, path)
    raise RunDirectoryError(f"'{path}' is not a run directory (it has no recipe.toml); {OPTION} needs one")


def inherit(run: ParentRun, recipe: Recipe, above: Sequence[Tables]) -> Tables:
    """The tables of the run's `recipe`, overridden by the layers `above`, the lowest first.

    The student starts from the run's weights. If a layer names another student of the same plugin (`deit-ti` for
    `vit-ti`), the run's student options are kept. `about` is not inherited. If a layer names other training images,
    neither are the keys in `IMAGE_KEYS`, except a share to hold out; a note lists them.
    Raises: RecipeError if a layer sets student.weights; a PluginError for a student that is not installed.
    """
    if any("weights" in _table(tables, "student") for tables in above):
        raise RecipeError(
            f"{OPTION} {run.student} and student.weights (--student-weights) both set the initial weights of the "
            "student; leave one of them out"
        )
    base = recipe.model_dump(exclude_none=True)
    base["about"] = {}  # it describes the recipe of the finished run, not the new one
    model = _table(reduce(layered, above, {}), "student").get("model", recipe.student.model)
    # Set in the lowest layer, because `layered` drops the options of a student when another one replaces it.
    if _same_plugin(model, recipe.student.model):
        base["student"]["model"] = model
    if dropped := _not_inherited(base["data"], above):
        base["data"] = {key: value for key, value in base["data"].items() if key not in dropped}
        base["about"] = {"notes": [_note(run, dropped)]}
    tables = reduce(layered, above, base)
    tables["student"]["weights"] = str(run.student)
    return tables


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


def _same_plugin(one: str, another: str) -> bool:
    """Whether two students are built by the same factory, and so have the same options."""
    if one == another:
        return True
    plugins = installed_plugins()
    return plugins.find("student", one).spec.factory == plugins.find("student", another).spec.factory


def _table(tables: Tables, name: str) -> Mapping[str, Any]:
    found = tables.get(name)
    return found if isinstance(found, Mapping) else {}


def _images(data: Mapping[str, Any]) -> Any:
    """The training images; `data.unlabeled` only if `data.train` is not set."""
    named = [data[key] for key in ("train", "unlabeled") if data.get(key, UNSET) is not UNSET]
    return named[0] if named else "digits"
