"""Go on from a run (`--from`): its recipe is the base of a new one, its student what the new one starts from."""

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
OF_THE_DATA = ("validation", "test", "unlabeled", "labels", "labeled_fraction")
"""The keys of `[data]` that speak of the very images of a run, beside `train`."""


@dataclass(frozen=True)
class FormerRun:
    """A run to go on from: the directory with its recipe, and the one of the student that is taken.

    `student` is the run directory itself, whose student is that after the last step, or best/ or ema/ in it.
    """

    directory: Path
    student: Path

    @property
    def recipe(self) -> Path:
        """The file of its resolved recipe."""
        return self.directory / "recipe.toml"


def former_run(path: Path) -> FormerRun:
    """The run that `path` means: a finished run directory, or one of the students in it.

    Raises: RunDirectoryError for what is no run, or has no student yet.
    """
    if not path.is_dir():
        raise RunDirectoryError(f"there is no run directory {path}; check the path")
    if (path / "recipe.toml").is_file():
        if not (path / "result.json").is_file():
            best = f", or give its best student so far, {path / 'best'}" if (path / "best").is_dir() else ""
            raise RunDirectoryError(f"{path} has not reached its end; continue it with --resume {path}{best}")
        return FormerRun(path, path)
    if (path / "student.json").is_file() and (path.parent / "recipe.toml").is_file():
        return FormerRun(path.parent, path)
    raise RunDirectoryError(f"{path} is not a run directory (it has no recipe.toml); give one to {OPTION}")


def going_on(run: FormerRun, recipe: Recipe, above: Sequence[Tables]) -> Tables:
    """The tables of `recipe`, the run's, with those `above` over it, the lower first.

    The student starts from the run's. A student above of the same plugin (`deit-ti` for `vit-ti`) keeps its options.
    What describes the run's recipe (`about`) does not go on, nor do, where the layers above name other images, the keys
    that speak of the run's own; a note says which.
    Raises: RecipeError where a layer above names weights of its own; a PluginError for a student that is not installed.
    """
    if any("weights" in _table(tables, "student") for tables in above):
        raise RecipeError(
            f"{OPTION} {run.student} says what the student starts from, and student.weights (--student-weights) does "
            "too; leave one of them out"
        )
    base = recipe.model_dump(exclude_none=True)
    base["about"] = {}
    asked = _table(reduce(layered, above, {}), "student").get("model", recipe.student.model)
    if _same_plugin(asked, recipe.student.model):
        base["student"]["model"] = asked
    if left_behind := _left_behind(base["data"], above):
        base["data"] = {key: value for key, value in base["data"].items() if key not in left_behind}
        base["about"] = {"notes": [_note(run, left_behind)]}
    tables = reduce(layered, above, base)
    tables["student"]["weights"] = str(run.student)
    return tables


def _left_behind(data: Tables, above: Sequence[Tables]) -> Tables:
    """What of the run's `data` says nothing about the images that the layers above name, if those are others."""
    given: Tables = {}
    for tables in above:
        given = {**given, **_table(tables, "data")}
    if _images({**data, **given}) == _images(data):
        return {}
    is_share = isinstance(data.get("validation"), float | int)
    kept = {"train", *given, *({"validation"} if is_share else ())}
    return {key: data[key] for key in OF_THE_DATA if key in data and key not in kept}


def _note(run: FormerRun, left_behind: Tables) -> str:
    *most, last = (f"data.{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in left_behind.items())
    listed = f"{', '.join(most)} and {last} are" if most else f"{last} is"
    return f"trains on other images than {run.directory}, so {listed} left behind"


def _same_plugin(one: str, another: str) -> bool:
    """Whether two students are built by the same factory, and so take the same options."""
    if one == another:
        return True
    plugins = installed_plugins()
    return plugins.find("student", one).spec.factory == plugins.find("student", another).spec.factory


def _table(tables: Tables, name: str) -> Mapping[str, Any]:
    found = tables.get(name)
    return found if isinstance(found, Mapping) else {}


def _images(data: Mapping[str, Any]) -> Any:
    """What is trained on; `data.unlabeled` counts where there is nothing else."""
    named = [data[key] for key in ("train", "unlabeled") if data.get(key, UNSET) is not UNSET]
    return named[0] if named else "digits"
