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
from os import PathLike
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from distillkit.errors import RecipeError
from distillkit.messages.nearest_name import nearest
from distillkit.messages.text import shortened
from distillkit.messages.validation import problems, together
from distillkit.recipe.from_run import FormerRun, former_run, going_on
from distillkit.recipe.named_options import option_assignments
from distillkit.recipe.overrides import (
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
    recipe: str | PathLike[str] | Recipe | None = None,
    *,
    assignments: Sequence[str] = (),
    smoke: bool = False,
    from_run: str | PathLike[str] | None = None,
    **options: Any,
) -> Recipe:
    """Read a recipe, and change it.

    `recipe` is the name of a recipe that comes with distillkit, a TOML file, or a Recipe. None is `digits` for the
    digits, which are also the data where none is named, and `default` for every other data.

    `options` are those of `distillkit run`, and the keys of a recipe:

    - `data`, `validation`, `unlabeled`, `labels`, `strict_data`, `student`, `student_weights`, `teacher`,
      `teacher_weights`, `teacher_classes`, `loss`, `epochs`, `seed`, `device`, `head` and `fusion` mean what they mean
      on the command line. `loss` may be a list, and a loss or a teacher may be a table: `loss=["hard", {"loss": "soft",
      "tau": 2}]`. One that is None is not given.
    - A table changes the keys that it has and leaves the others: `training={"steps": 10, "clip": 1.0}`. A key that is
      None gets its default back.
    - A dotted key is a key of a table: `**{"student.image_size": 96}`.

    `assignments` are `KEY=VALUE`, as `--set` takes them, and go over `options`. `smoke` takes the recipe's `[smoke]`
    tables, which shorten it to seconds. `from_run` is a finished run to start from, as `--from`: its recipe lies below
    all others, and is the recipe where none is named.

    Raises: RecipeError, which lists every wrong key and value together; RunDirectoryError where `from_run` is no
    finished run.

    For example:
        >>> recipe = distillkit.load_recipe("digits", training={"steps": 10}, loss="soft:tau=2", labels=100)
        >>> recipe.training.steps, recipe.data.labels
        (10, 100)
    """
    assignments = [assignments] if isinstance(assignments, str) else assignments
    given = option_assignments(options)
    wrong = [f"'{each.key}' {beyond}" for each in given if (beyond := beyond_a_recipe(each.value))]
    for text in assignments:
        try:
            given.append(parse_assignment(text))
        except RecipeError as error:
            wrong.append(str(error))
    changes = as_tables(assignment for assignment in given if not assignment.is_of_entry)
    run = None if from_run is None else former_run(Path(from_run))
    chosen, tables = _chosen(recipe, changes, run)
    above = (_with_smoke(tables, chosen, smoke=smoke), changes)
    tables = deepcopy(layered(*above) if run is None else going_on(run, load_recipe(run.recipe), above))
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


def _chosen(recipe: str | PathLike[str] | Recipe | None, changes: Tables, run: FormerRun | None) -> tuple[str, Tables]:
    """What a recipe is called in a message, and its tables: none where those of a run are all."""
    if isinstance(recipe, Recipe):
        return "Recipe", recipe.model_dump(exclude_none=True)
    if recipe is None and run is not None:
        return str(run.recipe), {}
    name = str(recipe) if recipe else _default_name(changes)
    return name, read_tables(name)


def _default_name(changes: Tables) -> str:
    """`digits` for the digits, which are also the data where none is named; `default` for every other."""
    data = changes.get("data")
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
