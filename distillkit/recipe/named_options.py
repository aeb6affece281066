"""Options of the command line and of `load_recipe`, and the recipe keys that they set.

An option is a name in `KEYS` or `LISTS`, a table of the recipe ("training"), or a dotted key ("training.steps").
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillkit.recipe.overrides import LISTS, UNSET, Assignment, Tables, parse_loss

KEYS = {
    "data": "data.train",
    "validation": "data.validation",
    "unlabeled": "data.unlabeled",
    "labels": "data.labels",
    "student": "student.model",
    "student_weights": "student.weights",
    "teacher_weights": "teacher.weights",
    "teacher_classes": "teacher.classes",
    "epochs": "training.epochs",
    "device": "training.device",
    "head": "evaluation.head",
    "fusion": "evaluation.fusion",
}
"""Options that set one key."""

NAME_OF_ENTRY = {"teacher": "model", "loss": "loss"}
"""The key that names the plugin of a list entry."""


def option_assignments(options: Mapping[str, Any]) -> list[Assignment]:
    """The keys that `options` set, with their values as plain data. An option that is None is not given.

    In a table, and for a dotted key, None resets the key to its default, as `--set KEY=` does.

    Raises: RecipeError for an invalid loss.
    """
    given = {name: _plain(value) for name, value in options.items() if value is not None or "." in name}
    if given.pop("strict_data", False):
        given["data.broken"] = 0.0
    return [assignment for name, value in given.items() for assignment in _assignments(name, value)]


def _assignments(name: str, value: Any) -> Iterator[Assignment]:
    names_an_entry = name in LISTS and not (isinstance(value, dict) and NAME_OF_ENTRY[name] not in value)
    if names_an_entry:
        entries = value if isinstance(value, list) else [value]
        yield Assignment(LISTS[name], [_entry(name, entry) for entry in entries])
    elif isinstance(value, dict):
        yield from _dotted(name, value)
    else:
        yield Assignment(KEYS.get(name, name), UNSET if value is None else value)


def _entry(name: str, value: Any) -> Any:
    """An entry of `teachers` or `losses`, given as a table or as a name."""
    if not isinstance(value, str):
        return value
    return parse_loss(value) if name == "loss" else {NAME_OF_ENTRY[name]: value}


def _dotted(prefix: str, table: Tables) -> Iterator[Assignment]:
    for name, value in table.items():
        key = f"{prefix}.{name}"
        if isinstance(value, dict):
            yield from _dotted(key, value)
        else:
            yield Assignment(key, UNSET if value is None else value)


def _plain(value: Any) -> Any:
    """`value` as in a recipe file: paths as strings, tuples as lists, mappings as tables."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(inner) for inner in value]
    return value
