"""Paths in the recipe of a run: a relative path belongs to the folder in which the run was started.

That folder is in `started_in.json`, relative to the run's folder, so that both can be moved together, and absolute, for
a run that is moved alone. Runs of earlier versions have no such file: their paths belong to the current folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from distillkit.errors import RecipeError
from distillkit.messages.text import shortened
from distillkit.plugin.registry import installed_plugins, split_name
from distillkit.recipe.schema import Recipe
from distillkit.storage.atomic import write_json
from distillkit.storage.untrusted import read_json
from distillkit.storage.user_dirs import expanded

STARTED_IN = "started_in.json"
DATA_KEYS = ("data.train", "data.validation", "data.test", "data.unlabeled", "data.root")
NOT_FILES = ("none", "pretrained", "bank")
"""Values of `weights` that name no file."""
BANK = "bank"
"""The key of the target bank, which is made where it is missing."""


class StartedIn(BaseModel, strict=True):
    """The folder in which a run was started: relative to the folder of the run, and absolute."""

    relative: str
    absolute: str

    def candidates(self, run: Path) -> tuple[Path, Path]:
        """The folder itself, as far as it can be found: moved with the run, or where it was."""
        return run.resolve() / self.relative, Path(self.absolute)


class StoredPath(NamedTuple):
    """A path in a recipe: the table and the key that hold it, the dotted key, the text before it, and the path."""

    table: Any
    key: str
    dotted: str
    prefix: str
    path: str


def write_started_in(run: Path) -> None:
    """Record the current folder in the folder of a new run."""
    here = Path.cwd()
    try:
        relative = os.path.relpath(here.resolve(), run.resolve())
    except ValueError:  # on another drive
        relative = str(here)
    write_json(run / STARTED_IN, {"relative": relative, "absolute": str(here)})


def find_stored_paths(tables: dict[str, Any], run: Path) -> None:
    """Change the relative paths in the tables of a run's recipe, in place, so that they work from the current folder.

    A path that is not found is left as it is; see `require_stored_paths`.
    """
    started_in = _started_in(run)
    if started_in is None:
        return
    folders = started_in.candidates(run)
    for stored in _stored_paths(tables):
        if Path(stored.path).is_absolute() or stored.path.startswith("~"):
            continue
        found = next((path for folder in folders if _exists(path := folder / stored.path)), None)
        if found is not None and not _is_same(found, Path(stored.path)):
            # Relative, so that a run that inherits the path can be moved together with the files.
            stored.table[stored.key] = stored.prefix + os.path.relpath(found)


def require_stored_paths(
    recipe: Recipe, run: Path, remedy: Callable[[str], str], *, keys: Collection[str] | None = None
) -> None:
    """Check that the paths in the recipe of a run exist; `keys` limits them, and `remedy` says what replaces a key.

    Raises: RecipeError for the first missing one. Not for a run of an earlier version, whose folder is unknown.
    """
    started_in = _started_in(run)
    if started_in is None:
        return
    for stored in _stored_paths(recipe.model_dump()):
        is_needed = stored.dotted != BANK and (keys is None or stored.dotted in keys)
        if is_needed and not _exists(expanded(stored.path)):
            where = "" if Path(stored.path).is_absolute() else f" here or in '{started_in.absolute}', where it started"
            raise RecipeError(
                f"{stored.dotted}: run {run} uses '{stored.path}', which is not found{where}; put it back, or "
                f"{remedy(stored.dotted)}"
            )


def inherited(recipe: Recipe, parent: Recipe) -> frozenset[str]:
    """The dotted keys of the paths that a recipe has from its parent."""
    theirs = {(stored.dotted, stored.path) for stored in _stored_paths(parent.model_dump())}
    return frozenset(
        stored.dotted for stored in _stored_paths(recipe.model_dump()) if (stored.dotted, stored.path) in theirs
    )


def _started_in(run: Path) -> StartedIn | None:
    try:
        return StartedIn.model_validate(read_json(run / STARTED_IN))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise RecipeError(
            f"{run / STARTED_IN} is damaged or cannot be read; restore it, or delete it to use the paths in "
            "recipe.toml from the current folder"
        ) from None


def _stored_paths(tables: Mapping[str, Any]) -> Iterator[StoredPath]:
    """The paths in the tables of a recipe. What has a wrong type is left to the validation of the recipe."""
    bank = tables.get(BANK)
    if isinstance(bank, str):
        yield StoredPath(tables, BANK, BANK, "", bank)
    table = tables.get("data")
    data = table if isinstance(table, dict) else {}
    known = {plugin.spec.name for plugin in installed_plugins().listing("dataset")}
    for dotted in DATA_KEYS:
        key = dotted.removeprefix("data.")
        value = data.get(key)
        if isinstance(value, str) and (parts := ("", value) if key == "root" else _data_path(value, known)):
            yield StoredPath(data, key, dotted, *parts)
    student, teachers = tables.get("student"), tables.get("teachers")
    entries = [("student", student)] if isinstance(student, dict) else []
    if isinstance(teachers, list | tuple):
        named = [each for each in teachers if isinstance(each, dict)]
        entries += [("teacher" if len(named) == 1 else f"teachers.{each.get('name')}", each) for each in named]
    for name, entry in entries:
        model = str(entry.get("model"))
        if name != "student" and model.startswith("run:"):
            yield StoredPath(entry, "model", f"{name}.model", "run:", model.removeprefix("run:"))
        for key in ("weights", "classes"):
            value = entry.get(key)
            if isinstance(value, str) and value not in NOT_FILES:
                yield StoredPath(entry, key, f"{name}.{key}", "", value)


def _data_path(value: str, known: Collection[str]) -> tuple[str, str] | None:
    """The prefix and the path in the name of a data set; None for a name without a path, such as "digits"."""
    name, argument = split_name(value)
    if name not in known:
        return "", value
    is_path = name == "folder" or (name == "timm" and str(argument).endswith(".tar"))
    return (f"{name}:", argument) if argument and is_path else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long or has a NUL
        return False


def _is_same(one: Path, other: Path) -> bool:
    return _exists(other) and one.samefile(other)


def edit_remedy(run: Path) -> Callable[[str], str]:
    """The remedy for a run that continues: its own recipe is read again."""
    return lambda key: f"change {shortened(key)} in {run / 'recipe.toml'}"


def set_remedy(key: str) -> str:
    """The remedy for a run that starts from another one."""
    return f"give --set {key}={'run:DIR' if key.endswith('.model') else 'PATH'}"
