"""Default training data: that of the teacher, where no data is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.contracts.student_directory import RECIPE, run_of
from distillkit.errors import RecipeError, UserError
from distillkit.messages.text import one_line
from distillkit.plugin.registry import installed_plugins, split_name
from distillkit.recipe.overrides import Tables
from distillkit.recipe.schema import Recipe

DIGITS = "digits"
"""The data of a run without data and without a teacher that has default data."""
KEYS = ("train", "unlabeled", "validation", "test", "root", "download", "seed")
"""The keys of `[data]` that decide which images a run trains on, and which it holds out."""


@dataclass(frozen=True)
class DefaultData:
    """The keys of `[data]` for a teacher, and why, as shown in the plan and at the start of a run."""

    keys: Tables
    reason: str

    @property
    def tables(self) -> Tables:
        """The layer of a recipe with these keys."""
        return {"data": self.keys, "about": {"data_reason": self.reason}}


def names_data(*layers: Mapping[str, Any]) -> bool:
    """Whether one of the layers names training images."""
    tables = [table for layer in layers if isinstance(table := layer.get("data"), Mapping)]
    return any(isinstance(table.get(key), str) for table in tables for key in ("train", "unlabeled"))


def default_data(teachers: Any, read_recipe: Callable[[Path], Recipe]) -> DefaultData | None:
    """The default data of the first of the `teachers` tables that has any; None without one.

    For `run:DIR` it is the data of that run, whose recipe `read_recipe` reads; for another teacher what its plugin
    names as `default_data`. A teacher with class names of its own (`classes`) has none.
    Raises: RecipeError if the recipe of a run cannot be read.
    """
    entries = teachers if isinstance(teachers, list | tuple) else ()
    for entry in entries:
        model = entry.get("model") if isinstance(entry, Mapping) else None
        if not isinstance(model, str):
            continue
        name, argument = split_name(model)
        found = _of_run(model, Path(argument or ""), read_recipe) if name == "run" else None
        if name != "run" and "classes" not in entry:
            found = _of_plugin(model)
        if found is not None:
            return found
    return None


def _of_plugin(model: str) -> DefaultData | None:
    try:
        name = installed_plugins().find("teacher", model).spec.default_data
    except UserError:
        return None  # an unknown teacher is reported together with the other unknown names
    if name is None:
        return None
    return DefaultData({"train": name}, f"the default for teacher '{model}', which knows its classes")


def _of_run(model: str, directory: Path, read_recipe: Callable[[Path], Recipe]) -> DefaultData | None:
    run = run_of(directory)  # the best and the EMA student, and the checkpoints, are in directories inside the run's
    if run is None:
        return None
    try:
        data = read_recipe(run / RECIPE).data.model_dump(exclude_none=True)
    except RecipeError as error:
        raise RecipeError(f"{one_line(error)}; without --data, the data is that of teacher '{model}'") from error
    keys = {key: data[key] for key in KEYS if key in data}
    if "unlabeled" not in keys:
        keys.setdefault("train", DIGITS)
    return DefaultData(keys, f"the default, because teacher '{model}' was trained on it")
