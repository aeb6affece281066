"""Recipe files: read named recipes and users' files, apply overrides, and write recipes back.

A file holds the tables of `recipe.schema.Recipe` in TOML and two more keys: `base`, the name or file of a recipe that
this one changes, and `[smoke]`, the tables that shorten a run to seconds. Layers override each other in this order:
base, file, smoke tables, command line; see `distillkit.recipe.overrides.layered`. With `--from` the recipe of a
finished run is the lowest layer, see `distillkit.recipe.from_run`.

Options that belong to a plugin (a student's `patch`, a loss's `tau`) are kept unchecked; the plugin checks them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile
from os import PathLike
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from distillkit.errors import RecipeError
from distillkit.messages.nearest_name import nearest
from distillkit.messages.text import shortened
from distillkit.messages.validation import problems, together
from distillkit.recipe.from_run import ParentRun, find_parent_run, inherit
from distillkit.recipe.named_options import option_assignments
from distillkit.recipe.overrides import (
    Tables,
    as_tables,
    assign_to_entry,
    layered,
    parse_assignment,
    unsupported_value,
)
from distillkit.recipe.schema import About, Recipe
from distillkit.storage.untrusted import read_plain_text

FOLDER = Path(__file__).parent / "named"
SUFFIX = ".toml"
MAX_BYTES = 2**20
"""Size limit of a recipe file; the longest named recipe has a hundredth of it."""
WRITTEN_IN_FULL = frozenset(
    {"about", "augment", "data", "evaluation", "labels", "mixing", "schedule", "seed", "trackers"}
)
"""Keys that a recipe has if `dump` wrote it; no other recipe has all of them."""
ADDED_LATER: Mapping[str, Any] = {"augment": {"orientation": "stored"}}
"""Keys that recipes written in full by earlier versions do not have, with the values that mean what those did."""
MAX_BASES = 16
"""Length limit of a chain of bases."""


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe that comes with the package."""

    name: str
    summary: str
    source: str
    cost: str
    path: Path


def head_comment(name_or_file: str) -> str:
    """The head comments of a recipe's bases and its own: how to use it, and what its source leaves open.

    Raises: as `read_tables`.
    """
    read_tables(name_or_file)
    texts: list[str] = []
    path: Path | None = _path(name_or_file, relative_to=None)
    while path is not None:
        lines = takewhile(lambda line: line.startswith("#"), read_plain_text(path).splitlines())
        texts.insert(0, "\n".join(lines))
        base = _parse(path).get("base")
        path = None if base is None else _path(base, relative_to=path.parent)
    return "\n#\n".join(filter(None, texts))


def named_recipes() -> tuple[NamedRecipe, ...]:
    """Every named recipe, sorted by name."""
    return tuple(sorted((_named(path) for path in FOLDER.glob(f"*{SUFFIX}")), key=lambda named: named.name))


def load_recipe(
    recipe: str | PathLike[str] | Recipe | None = None,
    *,
    assignments: Sequence[str] = (),
    smoke: bool = False,
    from_run: str | PathLike[str] | None = None,
    **options: Any,
) -> Recipe:
    """Load a recipe and apply overrides.

    `recipe` is the name of a named recipe, a TOML file, or a Recipe. The default is `default`, or `digits` if the
    data is `digits` or not set.

    `options` are the options of `distillkit run`, and the keys of a recipe:

    - `data`, `validation`, `unlabeled`, `labels`, `strict_data`, `student`, `student_weights`, `teacher`,
      `teacher_weights`, `teacher_classes`, `loss`, `epochs`, `seed`, `device`, `head` and `fusion` have the same
      meaning as on the command line. `loss` may be a list, and a loss or a teacher may be a table: `loss=["hard",
      {"loss": "soft", "tau": 2}]`. None means not given.
    - A table changes the keys that it has and keeps the others: `training={"steps": 10, "clip": 1.0}`. A key set to
      None is reset to its default.
    - A dotted key sets one key of a table: `**{"student.image_size": 96}`.

    `assignments` are `KEY=VALUE`, as for `--set`, and override `options`. `smoke` applies the recipe's `[smoke]`
    tables, which shorten a run to seconds. `from_run` is a finished run to start from, as for `--from`: its recipe is
    the lowest layer, and replaces the default if `recipe` is None.

    Raises: RecipeError, which lists all wrong keys and values together; RunDirectoryError if `from_run` is not a
    finished run.

    For example:
        >>> recipe = distillkit.load_recipe("digits", training={"steps": 10}, loss="soft:tau=2", labels=100)
        >>> recipe.training.steps, recipe.data.labels
        (10, 100)
    """
    assignments = [assignments] if isinstance(assignments, str) else assignments
    given = option_assignments(options)
    wrong = [f"'{each.key}' {problem}" for each in given if (problem := unsupported_value(each.value))]
    for text in assignments:
        try:
            given.append(parse_assignment(text))
        except RecipeError as error:
            wrong.append(str(error))
    changes = as_tables(assignment for assignment in given if not assignment.is_entry_key)
    run = None if from_run is None else find_parent_run(Path(from_run))
    chosen, tables = _chosen(recipe, changes, run)
    above = (_with_smoke(tables, chosen, smoke=smoke), changes)
    # A copy: entries are changed in place below, and the tables may share them with the caller's arguments.
    tables = deepcopy(layered(*above) if run is None else inherit(run, load_recipe(run.recipe_path), above))
    # After the layers, since they decide which teachers and losses there are.
    for assignment in given:
        try:
            if assignment.is_entry_key:
                assign_to_entry(tables, assignment)
        except RecipeError as error:
            wrong.append(str(error))
    return _validated(tables, wrong, prefix=f"recipe '{chosen}'" if _is_file(chosen) else "")


def read_tables(name_or_file: str) -> Tables:
    """The tables of a recipe merged with those of its bases, including `smoke` if any of them has it.

    Raises: RecipeError for an unknown name, an unreadable file, or a cycle of bases.
    """
    return _read_tables(_path(name_or_file, relative_to=None), ())


def keys_added_later(path: Path) -> frozenset[str]:
    """The dotted keys of ADDED_LATER that a recipe file does not have itself."""
    tables = _parse(path)
    return frozenset(
        f"{name}.{key}" for name, keys in ADDED_LATER.items() for key in keys if key not in tables.get(name, {})
    )


def dump(recipe: Recipe) -> str:
    """The complete recipe as TOML that loads to an equal one. Keys that are None are left out: TOML has no null."""
    return tomli_w.dumps(recipe.model_dump(exclude_none=True))


def _named(path: Path) -> NamedRecipe:
    about = About.model_validate(_read_tables(path, ()).get("about", {}))
    return NamedRecipe(path.stem, about.summary, about.source, about.cost, path)


def _chosen(recipe: str | PathLike[str] | Recipe | None, changes: Tables, run: ParentRun | None) -> tuple[str, Tables]:
    """The recipe's name in messages, and its tables; empty if only the recipe of a run is used."""
    if isinstance(recipe, Recipe):
        return "Recipe", recipe.model_dump(exclude_none=True)
    if recipe is None and run is not None:
        return str(run.recipe_path), {}
    name = str(recipe) if recipe else _default_name(changes)
    return name, read_tables(name)


def _default_name(changes: Tables) -> str:
    """`digits` if the data is `digits` or not set; `default` for all other data."""
    data = changes.get("data")
    data = data if isinstance(data, dict) else {}
    train = data.get("train")
    return "digits" if train == "digits" or (train is None and data.get("unlabeled") is None) else "default"


def _with_smoke(tables: Tables, chosen: str, *, smoke: bool) -> Tables:
    """The tables without the key `smoke`, whose values are merged in if `smoke` is set."""
    tables = dict(tables)
    smoke_tables = tables.pop("smoke", None)
    if not smoke:
        return tables
    if not isinstance(smoke_tables, Mapping):
        raise RecipeError(
            f"recipe '{chosen}' has no [smoke] table; add one, or shorten the run with --set training.steps=2"
        )
    return layered(tables, smoke_tables)


def _validated(tables: Tables, wrong: Sequence[str], *, prefix: str) -> Recipe:
    """Validate the tables; one error lists everything that is wrong."""
    found = list(wrong)
    try:
        recipe = Recipe.model_validate(tables)
    except ValidationError as error:
        found.extend(problems(error, Recipe, tables))
    if found:
        raise RecipeError(together(found, prefix=prefix))
    return recipe


def _is_file(name_or_file: str) -> bool:
    return name_or_file.endswith(SUFFIX) or "/" in name_or_file or "\\" in name_or_file


def _path(name_or_file: str, *, relative_to: Path | None) -> Path:
    if _is_file(name_or_file):
        return (relative_to or Path()) / name_or_file
    names = [path.stem for path in FOLDER.glob(f"*{SUFFIX}")]
    if name_or_file not in names:
        guess = nearest(name_or_file, names)
        question = f"did you mean '{guess}'? " if guess else ""
        raise RecipeError(
            f"unknown recipe '{name_or_file}'; {question}`distillkit recipes` lists the named recipes; "
            f"to use a file, give a name that ends with {SUFFIX}"
        )
    return FOLDER / f"{name_or_file}{SUFFIX}"


def _read_tables(path: Path, derived: tuple[Path, ...]) -> Tables:
    """`derived` are the recipes that have this file as a base, outermost first."""
    tables = _parse(path)
    if path.resolve() in derived:
        chain = " -> ".join(file.name for file in (*derived, path))
        raise RecipeError(f"recipe '{derived[0].name}' is its own base: {chain}; remove one of the `base` keys")
    base = tables.pop("base", None)
    if base is None:
        # A recipe in full is that of a run: it keeps its meaning, also where a default has changed.
        return layered(ADDED_LATER, tables) if tables.keys() >= WRITTEN_IN_FULL else tables
    if not isinstance(base, str):
        raise RecipeError(
            f"recipe '{path}': 'base' is {shortened(repr(base))}; it should be the name or the file of a recipe"
        )
    if len(derived) == MAX_BASES:
        raise RecipeError(
            f"recipe '{derived[0].name}' has a chain of more than {MAX_BASES} bases; merge some of the files"
        )
    below = _read_tables(_path(base, relative_to=path.parent), (*derived, path.resolve()))
    # Smoke tables are merged like the others, so a recipe can change how its base is shortened.
    return layered(below, tables)


def _parse(path: Path) -> Tables:
    name = shortened(str(path))
    try:
        if path.is_dir():
            raise RecipeError(f"recipe '{name}' is a directory; give a file, such as {path / 'recipe.toml'}")
        tables = tomllib.loads(read_plain_text(path, largest=MAX_BYTES))
    except FileNotFoundError:
        raise RecipeError(f"recipe '{name}' does not exist; `distillkit recipes` lists the named recipes") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe '{name}' is not valid TOML: {str(error)[0].lower()}{str(error)[1:]}") from None
    except OSError as error:
        raise RecipeError(f"recipe '{name}' cannot be read: {error.strerror}") from None
    except RecursionError:
        raise RecipeError(f"recipe '{name}' is nested too deeply") from None
    except ValueError as error:
        # Python's own limit: an integer of more than 4,300 digits is a ValueError and not a TOMLDecodeError.
        raise RecipeError(f"recipe '{name}' {error}; a recipe is a TOML file") from None
    if problem := unsupported_value(tables):
        raise RecipeError(f"recipe '{name}' {problem}")
    return tables
