"""The options of `distillkit.sweep` as those that a command line can have, since arms are started by commands."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from distillkit.errors import RecipeError
from distillkit.recipe.named_options import option_assignments
from distillkit.recipe.overrides import UNSET, Assignment
from distillkit.sweeping.grid import as_text

KEPT = ("assignments", "from_run", "smoke")


def typed_options(recipe: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `load_recipe` that have the same effect, each of them a text or a flag.

    >>> typed_options("digits", {"loss": ["ce"], "training": {"steps": 10}})
    {'recipe': 'digits', 'loss': ['ce'], 'assignments': ['training.steps=10']}

    Raises: RecipeError for a recipe or a value that a command line cannot have.
    """
    if not (recipe is None or isinstance(recipe, str | os.PathLike)):
        raise RecipeError(
            "a sweep starts every arm by a command, so it needs the name or the file of a recipe, not a Recipe"
        )
    kept = {name: options[name] for name in KEPT if name in options}
    typed: dict[str, Any] = {} if recipe is None else {"recipe": os.fspath(recipe)}
    typed |= {name: value for name, value in kept.items() if name != "assignments"}
    assignments = []
    for each in option_assignments({name: value for name, value in options.items() if name not in KEPT}):
        if each.key == "losses":
            typed["loss"] = [as_text(entry) for entry in each.value]
        elif each.key == "teachers":
            (entry,) = each.value
            typed["teacher"] = str(entry["model"])
            assignments += [_text(f"teacher.{key}", value) for key, value in entry.items() if key != "model"]
        else:
            assignments.append(_assignment(each))
    given = kept.get("assignments", ())
    typed["assignments"] = [*assignments, *([given] if isinstance(given, str) else given)]
    return typed


def _assignment(each: Assignment) -> str:
    return f"{each.key}=" if each.value is UNSET else _text(each.key, each.value)


def _text(key: str, value: Any) -> str:
    return f"{key}={as_text(value)}"
