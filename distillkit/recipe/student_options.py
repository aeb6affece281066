"""Options of a student that another one replaced: kept if the new student has them too; notes name what moved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from distillkit.errors import UnknownPluginError
from distillkit.plugin.registry import PluginRegistry, installed_plugins, split_name
from distillkit.recipe.overrides import DEFAULT_STUDENT, INHERITED, REPLACED, Tables

Options = Mapping[str, tuple[str | None, Any]]
"""Options as under INHERITED and REPLACED: key to (model, value)."""


def with_inherited_options(tables: Tables, plugins: PluginRegistry | None) -> Tables:
    """Tables with the INHERITED and REPLACED options of the student resolved; notes in `about` list what is left out.

    `plugins` are the installed ones if None; they are needed only if there are such options.
    Raises: a PluginError for a student that is installed and cannot be loaded.
    """
    student = tables.get("student")
    if not isinstance(student, Mapping) or not {INHERITED, REPLACED} & student.keys():
        return tables
    own = {key: value for key, value in student.items() if key not in {INHERITED, REPLACED}}
    model = str(own.get("model", DEFAULT_STUDENT))
    inherited: Options = student.get(INHERITED, {})
    same, shared = _applicable(inherited, model, plugins or installed_plugins())
    kept = {key: value for key, (_, value) in inherited.items() if key in same | shared}
    left = {key: option for key, option in inherited.items() if key not in kept}
    moved = {key: option for key, option in inherited.items() if key in shared}
    notes = [
        _note(moved, f"kept for '{model}', which another plugin builds; change what does not suit it"),
        _note(left, f"not kept, because '{model}' does not have {'it' if len(left) == 1 else 'them'}"),
        _note(
            student.get(REPLACED, {}),
            f"not kept, because '{model}' starts from weights of its own; set what should apply to it",
        ),
    ]
    stated = {key: value for key, (former, value) in left.items() if former is None}
    if stated:
        notes.append(f"student '{model}' does not have the recipe's option {_listed(stated)}, which has no effect")
    return _with_notes({**tables, "student": {**kept, **own}}, [note for note in notes if note])


def _applicable(inherited: Options, model: str, plugins: PluginRegistry) -> tuple[set[str], set[str]]:
    """The options in `inherited` that apply to student `model`: those of the same plugin, and those of other students.

    Options of another plugin's student, and those that a named recipe states for any student, apply if there is such
    an option.
    """
    try:
        plugin = plugins.find("student", model)
    except UnknownPluginError:
        return set(), set()  # reported when the plugins of the recipe are looked up
    factories = {each.spec.name: each.spec.factory for each in plugins.listing("student")}
    same = {
        key
        for key, (former, _) in inherited.items()
        if factories.get(split_name(former or DEFAULT_STUDENT)[0]) == plugin.spec.factory
    }
    others = inherited.keys() - same
    # Only where needed: importing a factory imports torch.
    return same, others & plugin.option_names() if others else set()


def _note(options: Options, outcome: str) -> str:
    """A note on options of a replaced student; empty without any."""
    values = {key: value for key, (former, value) in options.items() if former is not None}
    if not values:
        return ""
    former = next(former for former, _ in options.values() if former is not None)
    return f"{_listed(values)} of student '{former}' {'is' if len(values) == 1 else 'are'} {outcome}"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"student.{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())


def _with_notes(tables: Tables, notes: list[str]) -> Tables:
    if not notes:
        return tables
    about = tables.get("about")
    about = dict(about) if isinstance(about, Mapping) else {}
    return {**tables, "about": {**about, "notes": [*about.get("notes", ()), *notes]}}
