"""Recipe files: read named recipes and users' files, apply overrides, and write recipes back.

A file holds the tables of `recipe.schema.Recipe` in TOML and four more keys: `base`, the name or file of a recipe that
this one changes, `unset`, a list of keys that it resets to their defaults, `[smoke]`, the tables that shorten a run to
seconds, and `[sweep]`, which only `distillkit sweep` reads. Layers override each other in this order:
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
from distillkit.messages.validation import problems, together, unknown_keys
from distillkit.plugin.registry import PluginRegistry, installed_plugins
from distillkit.recipe.default_data import DIGITS, DefaultData, default_data, names_data
from distillkit.recipe.from_run import ParentRun, find_parent_run, inherit, without_unread_teachers
from distillkit.recipe.named_options import option_assignments
from distillkit.recipe.overrides import (
    LISTS,
    UNSET,
    Assignment,
    Tables,
    as_tables,
    assign_to_entry,
    for_any_student,
    layered,
    parse_assignment,
    unsupported_value,
    with_loss_options,
)
from distillkit.recipe.schema import About, Recipe
from distillkit.recipe.stored_paths import find_stored_paths, inherited, require_stored_paths, set_remedy
from distillkit.recipe.student_options import with_inherited_options
from distillkit.storage.untrusted import parse_toml, read_plain_text

FOLDER = Path(__file__).parent / "named"
SUFFIX = ".toml"
MAX_BYTES = 2**20
"""Size limit of a recipe file; the longest named recipe has a hundredth of it."""
WRITTEN_IN_FULL = frozenset(
    {"about", "augment", "data", "evaluation", "labels", "mixing", "schedule", "seed", "trackers"}
)
"""Keys that a recipe has if `dump` wrote it; no other recipe has all of them."""
ADDED_LATER: Mapping[str, Any] = {
    "about": {"data_reason": ""},
    "augment": {"orientation": "stored"},
    "data": {"background": "none"},
}
"""Keys that recipes written in full by earlier versions do not have, with the values that mean what those did."""
SWEEP = "sweep"
"""The table of a file that describes a sweep: every run of it, and a run on its own, has the other tables."""
OF_DATA_SETS = (DIGITS, "imagenette")
"""The named recipes that are the default for the data set of their name."""
SMOKE_IMAGES = 64
"""Images of each split that a run with --smoke evaluates, unless its [smoke] table says otherwise."""
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
    plugins: PluginRegistry | None = None,
    **options: Any,
) -> Recipe:
    """Load a recipe and apply overrides.

    `recipe` is the name of a named recipe, a TOML file, or a Recipe. The default is the recipe of the data set, for
    `digits` and `imagenette`, and `default` for other data. The default data is that of the teacher, see
    `distillkit.recipe.default_data`, and `digits` without one.

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
    the lowest layer, and replaces the default if `recipe` is None. `plugins` defaults to the installed ones.

    If another student replaces that of a recipe or run, it keeps the options that it has too; a note lists the others.

    Raises: RecipeError, which lists all wrong keys and values together; RunDirectoryError if `from_run` is not a
    finished run; RecipeError if a path that it inherits is not found.

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
    chosen, tables = _chosen(recipe, changes, run, has_class_file=_has_class_file(given))
    parent = None if run is None else load_recipe(run.recipe_path)
    above = with_loss_options(
        (_with_smoke(tables, chosen, smoke=smoke), changes), parent.loss_options if parent else {}
    )
    merged = layered(*above) if run is None or parent is None else inherit(run, parent, above)
    # A copy: entries are changed in place below, and the tables may share them with the caller's arguments.
    tables = deepcopy(with_inherited_options(layered({}, merged), plugins))
    # After the layers, since they decide which teachers and losses there are.
    for assignment in given:
        try:
            if assignment.is_entry_key:
                assign_to_entry(tables, assignment)
        except RecipeError as error:
            wrong.append(str(error))
    loaded = _validated(tables, wrong, prefix=f"recipe '{chosen}'" if _is_file(chosen) else "")
    if run is not None and parent is not None:
        loaded = without_unread_teachers(loaded, parent, plugins or installed_plugins())
        require_stored_paths(loaded, run.directory, set_remedy, keys=inherited(loaded, parent))
    return loaded


def read_tables(name_or_file: str) -> Tables:
    """The tables of a recipe merged with those of its bases, including `smoke` and `sweep` if any of them has it.

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


def with_values(path: Path, values: Mapping[str, Any]) -> str:
    """The TOML of a recipe file with dotted keys set to other values; None removes a key."""
    changes = (Assignment(key, UNSET if value is None else value) for key, value in values.items())
    return tomli_w.dumps(layered(_parse(path), as_tables(changes)))


def _named(path: Path) -> NamedRecipe:
    about = About.model_validate(_read_tables(path, ()).get("about", {}))
    return NamedRecipe(path.stem, about.summary, about.source, about.cost, path)


def _chosen(
    recipe: str | PathLike[str] | Recipe | None, changes: Tables, run: ParentRun | None, *, has_class_file: bool
) -> tuple[str, Tables]:
    """The recipe's name in messages, and its tables; empty if only the recipe of a run is used.

    Where neither they nor `changes` name training images, the tables have the default data of the teacher.
    """
    if isinstance(recipe, Recipe):
        return "Recipe", recipe.model_dump(exclude_none=True)
    if recipe is None and run is not None:
        return str(run.recipe_path), {}
    tables = read_tables(str(recipe)) if recipe else {}
    default = None
    # A recipe in full is that of a run, and so is `run`: without data.train they mean digits.
    if run is None and not has_class_file and not names_data(tables, changes) and not _is_in_full(tables):
        default = default_data(changes.get("teachers") or tables.get("teachers"), load_recipe)
    name = str(recipe) if recipe else _default_name(changes, default)
    tables = tables or read_tables(name)
    return name, tables if default is None else layered(tables, default.tables)


def _has_class_file(given: Sequence[Assignment]) -> bool:
    """Whether a key of a teacher's entry names a file with its classes, which default data would not have."""
    return any(each.is_entry_key and each.key.endswith(".classes") for each in given)


def _default_name(changes: Tables, default: DefaultData | None) -> str:
    """The recipe of the name of the data set, if there is one; `digits` without data; `default` for all other data."""
    data = default.keys if default is not None else changes.get("data")
    data = data if isinstance(data, dict) else {}
    train = data.get("train")
    if train is None and data.get("unlabeled") is None:
        return DIGITS
    return train if train in OF_DATA_SETS else "default"


def _with_smoke(tables: Tables, chosen: str, *, smoke: bool) -> Tables:
    """The tables without the keys `sweep` and `smoke`; the values of the latter are merged in if `smoke` is set."""
    tables = dict(tables)
    tables.pop(SWEEP, None)
    smoke_tables = tables.pop("smoke", None)
    if not smoke:
        return tables
    if not isinstance(smoke_tables, Mapping):
        raise RecipeError(
            f"recipe '{chosen}' has no [smoke] table; add one, or shorten the run with --set training.steps=2"
        )
    return layered(layered(tables, {"evaluation": {"images": SMOKE_IMAGES}}), smoke_tables)


def _validated(tables: Tables, wrong: Sequence[str], *, prefix: str) -> Recipe:
    """Validate the tables; one error lists everything that is wrong."""
    found = list(wrong)
    try:
        recipe = Recipe.model_validate(tables)
    except ValidationError as error:
        found.extend(problems(error, Recipe, tables))
    if found:
        raise RecipeError(*together(found, prefix=prefix))
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
    base, unset = tables.pop("base", None), _unset(path, tables.pop("unset", []))
    if base is None:
        # A recipe in full is that of a run: it keeps its meaning, also where a default has changed.
        if _is_in_full(tables):
            find_stored_paths(tables, path.parent)
            tables = layered(ADDED_LATER, tables)
        merged = tables
    else:
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
        merged = layered(layered(below, unset), tables)
    student = merged.get("student")
    if path.parent == FOLDER and isinstance(student, dict) and "model" not in student:
        merged["student"] = for_any_student(student)
    # Kept as UNSET, because a run that --from names is a layer below.
    return _with_marks(merged, unset)


def _unset(path: Path, keys: Any) -> Tables:
    """The keys that a file lists under `unset`, as tables of UNSET.

    Raises: RecipeError for anything but keys of a recipe.
    """
    if not isinstance(keys, list) or not all(isinstance(key, str) and all(key.split(".")) for key in keys):
        raise RecipeError(
            f"recipe '{path}': 'unset' is {shortened(repr(keys))}; it should be a list of keys, such as "
            '["training.clip"]'
        )
    assignments = [Assignment(key, UNSET) for key in keys]
    for assignment in assignments:
        if assignment.is_entry_key:
            name = assignment.key.partition(".")[0]
            raise RecipeError(
                f"recipe '{path}': 'unset' names '{assignment.key}', but a recipe replaces its "
                f"`{LISTS.get(name, name)}` as a whole; write the list without this key"
            )
    tables = as_tables(assignments)
    try:
        Recipe.model_validate(tables)
    except ValidationError as error:
        if unknown := unknown_keys(error, Recipe):
            raise RecipeError(*together(unknown, prefix=f"recipe '{path}': 'unset'")) from None
    return tables


def _with_marks(tables: Tables, unset: Tables) -> Tables:
    """`tables` with the keys of `unset` that they do not set."""
    result = {**unset, **tables}
    for name in unset.keys() & tables.keys():
        if isinstance(unset[name], dict) and isinstance(tables[name], dict):
            result[name] = _with_marks(tables[name], unset[name])
    return result


def _is_in_full(tables: Tables) -> bool:
    return tables.keys() >= WRITTEN_IN_FULL


def _parse(path: Path) -> Tables:
    name = shortened(str(path))
    try:
        if path.is_dir():
            raise RecipeError(f"recipe '{name}' is a directory; give a file, such as {path / 'recipe.toml'}")
        tables = parse_toml(read_plain_text(path, largest=MAX_BYTES))
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
