"""Recipes as files: the named ones that come with the package, people's own, and what is written back.

A file is the tables of `recipe.schema.Recipe` in TOML, and two keys beside them: `base`, the name or file of a
recipe that this one changes, and `[smoke]`, the tables that make a run of it take seconds. Layers go over each other
in this order: base, file, smoke tables, command line; see `distillkit.recipe.overrides.layered`. Below them all may
lie the recipe of a run to go on from, see `distillkit.recipe.from_run`.

Options that belong to a plugin (a student's `patch`, a loss's `tau`) are kept as they are; the plugin checks them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from distillkit.errors import RecipeError
from distillkit.messages.nearest_name import nearest
from distillkit.messages.text import shortened
from distillkit.messages.validation import problems, together
from distillkit.recipe.from_run import former_run, going_on
from distillkit.recipe.overrides import (
    Assignment,
    Tables,
    as_tables,
    assign_to_entry,
    beyond_a_recipe,
    layered,
    parse_assignment,
)
from distillkit.recipe.schema import About, Recipe
from distillkit.storage.untrusted import read_plain_text

FOLDER = Path(__file__).parent / "named"
SUFFIX = ".toml"
LARGEST = 2**20
"""Bytes of a recipe file; the longest that comes with the package has a hundredth."""
MOST_BASES = 16
"""How many recipes may lie below one another."""


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe that comes with the package."""

    name: str
    summary: str
    source: str
    cost: str
    path: Path


def head_comment(name_or_file: str) -> str:
    """The comment at the head of a recipe's file, after that of its base: how to use it, what its source leaves open.

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
    """Every recipe that comes with the package, by name."""
    return tuple(sorted((_named(path) for path in FOLDER.glob(f"*{SUFFIX}")), key=lambda named: named.name))


def load_recipe(
    name_or_file: str | None = None,
    *,
    assignments: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    smoke: bool = False,
    former: Path | None = None,
) -> Recipe:
    """Resolve a recipe: a name, a file, or None for the one that fits the data (`digits`, or `default`).

    `overrides` maps dotted keys to values, `assignments` are `key=value` as typed; the latter go over the former.
    `former` is a run to go on from: its own recipe lies below all others, and is the recipe where none is named.

    Raises: RecipeError, which lists every wrong key and value together; RunDirectoryError for what is no finished run.
    """
    given = [Assignment(key, value) for key, value in (overrides or {}).items()]
    wrong = [f"'{each.key}' {beyond}" for each in given if (beyond := beyond_a_recipe(each.value))]
    for text in assignments:
        try:
            given.append(parse_assignment(text))
        except RecipeError as error:
            wrong.append(str(error))
    command_line = as_tables(assignment for assignment in given if not assignment.is_of_entry)
    run = None if former is None else former_run(former)
    chosen = name_or_file or (_default_name(command_line) if run is None else str(run.recipe))
    tables = {} if run is not None and name_or_file is None else read_tables(chosen)
    tables = _with_smoke(tables, chosen, smoke=smoke)
    above = (tables, command_line)
    tables = deepcopy(layered(*above) if run is None else going_on(run, load_recipe(str(run.recipe)), above))
    for assignment in given:
        try:
            if assignment.is_of_entry:
                assign_to_entry(tables, assignment)
        except RecipeError as error:
            wrong.append(str(error))
    return _validated(tables, wrong, prefix=f"recipe '{chosen}'" if _is_file(chosen) else "")


def read_tables(name_or_file: str) -> Tables:
    """The tables of a recipe over those of its bases, with the key `smoke` where any of them has it.

    Raises: RecipeError for a name that is not known, a file that cannot be read, and a base that leads back.
    """
    return _read_tables(_path(name_or_file, relative_to=None), ())


def dump(recipe: Recipe) -> str:
    """The whole recipe as TOML that loads to an equal one. An option that is None is left out, as TOML has no none."""
    return tomli_w.dumps(recipe.model_dump(exclude_none=True))


def _named(path: Path) -> NamedRecipe:
    about = About.model_validate(_read_tables(path, ()).get("about", {}))
    return NamedRecipe(path.stem, about.summary, about.source, about.cost, path)


def _default_name(command_line: Tables) -> str:
    """`digits` for the digits, which are also the data where none is named; `default` for every other."""
    data = command_line.get("data")
    data = data if isinstance(data, dict) else {}
    train = data.get("train")
    return "digits" if train == "digits" or (train is None and data.get("unlabeled") is None) else "default"


def _with_smoke(tables: Tables, chosen: str, *, smoke: bool) -> Tables:
    """The tables without their key `smoke`, and with what it holds where that is wanted."""
    tables = dict(tables)
    shortened = tables.pop("smoke", None)
    if not smoke:
        return tables
    if not isinstance(shortened, Mapping):
        raise RecipeError(
            f"recipe '{chosen}' has no [smoke] table; add one, or shorten the run with --set training.steps=2"
        )
    return layered(tables, shortened)


def _validated(tables: Tables, wrong: Sequence[str], *, prefix: str) -> Recipe:
    """The recipe, or one error with everything that is wrong."""
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
            f"unknown recipe '{name_or_file}'; {question}`distillkit recipes` lists those with a name; "
            f"a file's name ends with {SUFFIX}"
        )
    return FOLDER / f"{name_or_file}{SUFFIX}"


def _read_tables(path: Path, above: tuple[Path, ...]) -> Tables:
    """`above` are the files whose base this one is, outermost first."""
    tables = _parse(path)
    if path.resolve() in above:
        chain = " -> ".join(file.name for file in (*above, path))
        raise RecipeError(f"recipe '{above[0].name}' is its own base: {chain}")
    base = tables.pop("base", None)
    if base is None:
        return tables
    if not isinstance(base, str):
        raise RecipeError(
            f"recipe '{path}': 'base' is {shortened(repr(base))}; it should be the name or the file of a recipe"
        )
    if len(above) == MOST_BASES:
        raise RecipeError(
            f"recipe '{above[0].name}' has more than {MOST_BASES} bases below one another; put some together"
        )
    below = _read_tables(_path(base, relative_to=path.parent), (*above, path.resolve()))
    # The smoke tables of both are layered like the rest: a later file may shorten the run in its own way.
    return layered(below, tables)


def _parse(path: Path) -> Tables:
    name = shortened(str(path))
    try:
        if path.is_dir():
            raise RecipeError(f"recipe '{name}' is a directory; give a file, such as {path / 'recipe.toml'}")
        tables = tomllib.loads(read_plain_text(path, largest=LARGEST))
    except FileNotFoundError:
        raise RecipeError(f"recipe '{name}' does not exist; `distillkit recipes` lists those with a name") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe '{name}' is not TOML: {str(error)[0].lower()}{str(error)[1:]}") from None
    except OSError as error:
        raise RecipeError(f"recipe '{name}' cannot be read: {error.strerror}") from None
    except RecursionError:
        raise RecipeError(f"recipe '{name}' is nested too deeply") from None
    except ValueError as error:
        # A number of 5,000 digits is one too, of Python's and not of TOML's.
        raise RecipeError(f"recipe '{name}' {error}; a recipe is a TOML file") from None
    if beyond := beyond_a_recipe(tables):
        raise RecipeError(f"recipe '{name}' {beyond}")
    return tables
