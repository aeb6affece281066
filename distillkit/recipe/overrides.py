"""Recipe overrides: parse `key=value` assignments, and merge layers of tables."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from distillkit.errors import RecipeError
from distillkit.messages.nearest_name import unknown_name
from distillkit.messages.text import shortened
from distillkit.messages.validation import entry_name
from distillkit.recipe.schema import Optimizer, StudentEntry

Tables = dict[str, Any]

UNSET = object()
"""The value of a key that a layer resets to its default."""

INHERITED, REPLACED = "\0inherited", "\0replaced"
"""Keys of the student's table while layers are merged; `distillkit.recipe.student_options` resolves them.

Both map options to (model, value). INHERITED has those of a student that another one replaced, and with None as the
model those that a named recipe states for any student. REPLACED has those that cannot apply, because the layer that
names the new student also names its weights. A NUL is in no key of a file.
"""

LISTS = {"teacher": "teachers", "loss": "losses"}
"""The singular by which the only entry of a list is addressed, and the list."""

OPTIMIZER_SPECIFIC = frozenset({"betas", "eps", "momentum"})
"""The keys of `[optimizer]` that are dropped when another optimiser is named."""

DEFAULT_STUDENT: str = StudentEntry.model_fields["model"].default

_NOT_OPTIONS = frozenset({*StudentEntry.model_fields, INHERITED, REPLACED})
"""Keys of the student's table that are not options of its plugin."""

MAX_DEPTH = 32
"""Nesting limit of tables and lists; no recipe needs five levels."""


@dataclass(frozen=True)
class Assignment:
    """A dotted key and its value."""

    key: str
    value: Any

    @property
    def is_entry_key(self) -> bool:
        """Whether the key belongs to an entry of `teachers` or `losses`, which are lists addressed by name."""
        head, _, rest = self.key.partition(".")
        return bool(rest) and (head in LISTS or head in LISTS.values())


def parse_value(text: str) -> Any:
    """Parse a value as TOML, or keep it as a string.

    >>> parse_value("384"), parse_value("rand-m9-mstd0.5-inc1"), parse_value(".5"), parse_value("[0.08, 1.0]")
    (384, 'rand-m9-mstd0.5-inc1', 0.5, [0.08, 1.0])
    """
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        try:
            return float(text)  # users type .5, which is not a TOML number
        except ValueError:
            return text
    value = parsed["value"]
    # More than one key: the text has a line break. A date: no recipe key is one, but a folder may be named like one.
    return value if len(parsed) == 1 and isinstance(value, bool | int | float | str | list | dict) else text


def parse_assignment(text: str) -> Assignment:
    """Parse `key=value`. An empty value resets the key to its default.

    Raises: RecipeError without `=` or without a key before it.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        raise RecipeError(f"'{shortened(text)}' is not a setting; write key=value, such as training.epochs=20")
    assignment = Assignment(key, parse_value(value.strip()) if value.strip() else UNSET)
    if problem := unsupported_value(as_tables([assignment])):
        raise RecipeError(f"'{shortened(text)}' {problem}")
    return assignment


def unsupported_value(value: Any, *, depth: int = MAX_DEPTH) -> str:
    """Why a value cannot be in a recipe, "" if it can: nested too deeply, or a number or string outside TOML's range.

    >>> unsupported_value({"seed": [2**64]}), unsupported_value({"seed": 1})
    ('contains an integer of more than 64 bits', '')
    """
    if depth < 0:
        return f"is nested more than {MAX_DEPTH} levels deep"
    # tomllib reads integers of any size, but TOML, and so other readers of the file, have 64 bits.
    if isinstance(value, int) and value.bit_length() >= 64:
        return "contains an integer of more than 64 bits"
    if isinstance(value, str) and ("\0" in value or value.encode(errors="ignore").decode() != value):
        return "contains a NUL or a character that is not valid UTF-8"
    # Keys are checked too: they come from the command line or a file just like values.
    inner = (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, (unsupported_value(each, depth=depth - 1) for each in inner)), "")


def parse_loss(text: str) -> Tables:
    """Parse a loss as typed on the command line.

    >>> parse_loss("soft:tau=2,weight=0.9")
    {'loss': 'soft', 'tau': 2, 'weight': 0.9}

    Raises: RecipeError if an option is not `key=value`.
    """
    # Options start at the first colon followed by a key and `=`: the name itself may contain an argument after a colon.
    match = re.fullmatch(r"(?P<name>.+?)(?::(?P<options>[\w-]+=.*))?", text, re.DOTALL)
    if match is None:
        raise RecipeError("a loss needs a name, such as hard or soft:tau=2,weight=0.9")
    if not match["options"] and re.search(r":[-+]?\d*\.\d", text):  # a number such as soft:0.5
        raise RecipeError(f"loss '{shortened(text)}': options are KEY=VALUE, such as soft:tau=2")
    entry: Tables = {"loss": match["name"]}
    # Commas inside a list are not followed by a key and `=`.
    for option in re.split(r",(?=[\w-]+=)", match["options"] or ""):
        if option:
            assignment = parse_assignment(option)
            entry[assignment.key] = assignment.value
    return {key: value for key, value in entry.items() if value is not UNSET}


def as_tables(assignments: Iterable[Assignment]) -> Tables:
    """Nest dotted keys: training.epochs=3 becomes {"training": {"epochs": 3}}. The last value of a key wins."""
    tables: Tables = {}
    for assignment in assignments:
        *path, last = assignment.key.split(".")
        table = tables
        for part in path:
            inner = table.get(part)
            table[part] = table = inner if isinstance(inner, dict) else {}
        table[last] = assignment.value
    return tables


def layered(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Tables:
    """Merge `upper` into `lower`: tables are merged, everything else (lists too) is replaced.

    Three keys of `upper` change others of `lower`: another student moves the options of the lower one to INHERITED or
    REPLACED; another optimiser drops `betas`, `eps` and `momentum`; `training.epochs` and `training.steps`, of which a
    recipe has one, replace each other.
    """
    lower = {name: _kept(name, below, upper.get(name)) for name, below in lower.items()}
    return _merged(lower, upper)


def with_loss_options(layers: Sequence[Tables], inherited: Mapping[str, Any]) -> list[Tables]:
    """The layers, each loss in them with the options in `loss_options` that it does not set itself.

    The tables `loss_options` of all layers count, over the `inherited` one. Losses below the layers are not changed.
    """
    tables = [table for layer in layers if isinstance(table := layer.get("loss_options"), Mapping)]
    options = reduce(layered, tables, inherited)
    return [
        {**layer, "losses": [_with_options(entry, options) for entry in losses]}
        if isinstance(losses := layer.get("losses"), list | tuple)
        else layer
        for layer in layers
    ]


def _with_options(entry: Any, options: Mapping[str, Any]) -> Any:
    defaults = options.get(str(entry.get("loss"))) if isinstance(entry, Mapping) else None
    return {**defaults, **entry} if isinstance(defaults, Mapping) else entry


def assign_to_entry(recipe: Tables, assignment: Assignment) -> None:
    """Set a key of an entry of `teachers` or `losses` of `recipe`.

    `teacher.KEY` and `loss.KEY` address the only entry, `teachers.NAME.KEY` and `losses.NAME.KEY` the one of that name.

    Raises: RecipeError if there is no such entry, or more than one.
    """
    head, _, rest = assignment.key.partition(".")
    entries = recipe.get(LISTS.get(head, head), ())
    entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list | tuple) else []
    if head in LISTS:
        entry, key = _only_entry(entries, assignment.key), rest
    else:
        entry, key = _named_entry(entries, assignment.key)
    changed = _merged(entry, as_tables([Assignment(key, assignment.value)]))
    entry.clear()
    entry.update(changed)


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Tables:
    result = dict(lower)
    for name, value in upper.items():
        if value is UNSET:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            below = result.get(name)
            result[name] = _merged(below if isinstance(below, Mapping) else {}, value)
        else:
            result[name] = value
    return result


def _kept(name: str, below: Any, above: Any) -> Any:
    """The part of the table `below` that is kept when `above` is merged into it."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return below
    if name == "student":
        return _kept_student(below, above)
    if name == "optimizer":
        default = Optimizer.model_fields["name"].default
        is_same = above.get("name", UNSET) in (UNSET, below.get("name", default))
        return {key: value for key, value in below.items() if is_same or key not in OPTIMIZER_SPECIFIC}
    if name == "training" and any(above.get(key, UNSET) is not UNSET for key in ("epochs", "steps")):
        return {key: value for key, value in below.items() if key not in {"epochs", "steps"}}
    return below


def _kept_student(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tables:
    """The part of the student's table `below` that is kept when `above` is merged into it."""
    inherited, replaced = dict(below.get(INHERITED, {})), dict(below.get(REPLACED, {}))
    kept = {key: value for key, value in below.items() if key not in {INHERITED, REPLACED}}
    model = below.get("model", DEFAULT_STUDENT)
    if above.get("model", UNSET) not in (UNSET, model):
        options = {key: (model, kept.pop(key)) for key in [*kept] if key not in StudentEntry.model_fields}
        # Weights fit one network only, so they are not combined with the options of another.
        names_weights = above.get("weights", UNSET) not in (UNSET, None, "none")
        (replaced if names_weights and "model" in below else inherited).update(options)
    stated = above.get(INHERITED, {})
    kept = {key: value for key, value in kept.items() if key not in stated}
    for name, layer in ((INHERITED, inherited), (REPLACED, replaced)):
        if left := {key: value for key, value in layer.items() if key not in above and key not in stated}:
            kept[name] = left
    return kept


def for_any_student(student: Mapping[str, Any]) -> Tables:
    """The student's table with its options under INHERITED: what a recipe states without naming a student."""
    options = {key: (None, value) for key, value in student.items() if key not in _NOT_OPTIONS}
    inherited = {**student.get(INHERITED, {}), **options}
    table = {key: value for key, value in student.items() if key not in options}
    return table | ({INHERITED: inherited} if inherited else {})


def _only_entry(entries: list[Tables], key: str) -> Tables:
    head, _, rest = key.partition(".")
    several = LISTS[head]
    if not entries:
        raise RecipeError(f"'{key}' needs a {head}; name one with --{head}, or in the recipe's `{several}`")
    if len(entries) > 1:
        keys = ", ".join(f"{several}.{entry_name(entry)}.{rest}" for entry in entries)
        raise RecipeError(f"'{key}' is ambiguous with {len(entries)} {several}; write one of {keys}")
    return entries[0]


def _named_entry(entries: list[Tables], key: str) -> tuple[Tables, str]:
    """The entry that `key` names, and the key inside it. Names may contain dots: the longest match wins."""
    several, _, rest = key.partition(".")
    names = {str(entry_name(entry)): entry for entry in entries}
    for name in sorted(names, key=len, reverse=True):
        if rest.startswith(f"{name}.") and len(rest) > len(name) + 1:
            return names[name], rest[len(name) + 1 :]
    if rest in names:
        raise RecipeError(f"'{key}' is a table; write '{key}.KEY=value'")
    singular = next(singular for singular, name in LISTS.items() if name == several)
    problem = unknown_name(singular, rest.rpartition(".")[0] or rest, names)
    raise RecipeError(f"'{key}': {problem}")
