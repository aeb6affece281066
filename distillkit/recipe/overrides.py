"""From `key=value` as people type it to the plain tables of a recipe, and how one layer of tables goes over another."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from distillkit.errors import RecipeError
from distillkit.messages.nearest_name import unknown_name
from distillkit.messages.text import shortened
from distillkit.messages.validation import entry_name
from distillkit.recipe.schema import Optimizer, StudentEntry

Tables = dict[str, Any]

UNSET = object()
"""The value of a key that a later layer takes away, so that its default counts again."""

LISTS = {"teacher": "teachers", "loss": "losses"}
"""The word for the only entry of a list, and the list."""

OF_ONE_OPTIMIZER = frozenset({"betas", "eps", "momentum"})
"""The keys of `[optimizer]` that mean nothing to another one."""

DEEPEST = 32
"""How deeply tables and lists may be nested; no recipe needs five."""


@dataclass(frozen=True)
class Assignment:
    """One dotted key and the value that it is to have."""

    key: str
    value: Any

    @property
    def is_of_entry(self) -> bool:
        """Whether the key goes into an entry of `teachers` or `losses`, which are lists and known by name."""
        head, _, rest = self.key.partition(".")
        return bool(rest) and (head in LISTS or head in LISTS.values())


def parse_value(text: str) -> Any:
    """Read a value as TOML, or take it as text.

    >>> parse_value("384"), parse_value("rand-m9-mstd0.5-inc1"), parse_value(".5"), parse_value("[0.08, 1.0]")
    (384, 'rand-m9-mstd0.5-inc1', 0.5, [0.08, 1.0])
    """
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        try:
            return float(text)  # TOML has no number that starts with a point, and people type them
        except ValueError:
            return text
    value = parsed["value"]
    # More than one key: the text had a line break in it. A date: no key of a recipe is one, folders are called so.
    return value if len(parsed) == 1 and isinstance(value, bool | int | float | str | list | dict) else text


def parse_assignment(text: str) -> Assignment:
    """Read `key=value`. An empty value takes the key away.

    Raises: RecipeError where there is no `=` or nothing before it.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        raise RecipeError(f"'{shortened(text)}' is not a setting; write key=value, such as training.epochs=20")
    assignment = Assignment(key, parse_value(value.strip()) if value.strip() else UNSET)
    if beyond := beyond_a_recipe(as_tables([assignment])):
        raise RecipeError(f"'{shortened(text)}' {beyond}")
    return assignment


def beyond_a_recipe(value: Any, *, deepest: int = DEEPEST) -> str:
    """What a value has that no recipe can have, "" for nothing: too deep a nesting, a number or a text beyond TOML's.

    >>> beyond_a_recipe({"seed": [2**64]}), beyond_a_recipe({"seed": 1})
    ('has a whole number of more than 64 bits', '')
    """
    if deepest < 0:
        return f"is nested more than {DEEPEST} deep"
    if isinstance(value, int) and value.bit_length() >= 64:
        return "has a whole number of more than 64 bits"
    if isinstance(value, str) and ("\0" in value or value.encode(errors="ignore").decode() != value):
        return "has a NUL or a character that is not UTF-8 in it"
    inner = (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, (beyond_a_recipe(each, deepest=deepest - 1) for each in inner)), "")


def parse_loss(text: str) -> Tables:
    """Read a loss as the command line writes it.

    >>> parse_loss("soft:tau=2,weight=0.9")
    {'loss': 'soft', 'tau': 2, 'weight': 0.9}

    Raises: RecipeError where an option is not `key=value`.
    """
    # The options begin at the first colon that a key and `=` follow: a loss's name may have an argument of its own.
    match = re.fullmatch(r"(?P<name>.+?)(?::(?P<options>[\w-]+=.*))?", text, re.DOTALL)
    if match is None:
        raise RecipeError("a loss needs a name, such as hard or soft:tau=2,weight=0.9")
    entry: Tables = {"loss": match["name"]}
    # Commas inside a list are not followed by a key and `=`.
    for option in re.split(r",(?=[\w-]+=)", match["options"] or ""):
        if option:
            assignment = parse_assignment(option)
            entry[assignment.key] = assignment.value
    return {key: value for key, value in entry.items() if value is not UNSET}


def as_tables(assignments: Iterable[Assignment]) -> Tables:
    """Nest dotted keys: training.epochs=3 becomes {"training": {"epochs": 3}}. The last value of a key counts."""
    tables: Tables = {}
    for assignment in assignments:
        *path, word = assignment.key.split(".")
        table = tables
        for part in path:
            inner = table.get(part)
            table[part] = table = inner if isinstance(inner, dict) else {}
        table[word] = assignment.value
    return tables


def layered(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Tables:
    """`upper` over `lower`: tables are merged, everything else (lists too) is replaced.

    Three keys take others with them: another student leaves the options of the student below behind, which belong to
    that student's plugin, another optimiser those of the optimiser below (`betas`, `eps`, `momentum`), and
    `training.epochs` and `training.steps`, of which a recipe has one, replace each other.
    """
    lower = {name: _kept(name, below, upper.get(name)) for name, below in lower.items()}
    return _merged(lower, upper)


def assign_to_entry(recipe: Tables, assignment: Assignment) -> None:
    """Put a value into an entry of `teachers` or `losses` of `recipe`.

    `teacher.KEY` and `loss.KEY` mean the only one, `teachers.NAME.KEY` and `losses.NAME.KEY` the one of that name.

    Raises: RecipeError where there is no such entry, or several.
    """
    head, _, rest = assignment.key.partition(".")
    entries = recipe.get(LISTS.get(head, head), ())
    entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list | tuple) else []
    if head in LISTS:
        entry, word = _only(entries, assignment.key), rest
    else:
        entry, word = _named(entries, assignment.key)
    changed = _merged(entry, as_tables([Assignment(word, assignment.value)]))
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
    """What of the table `below` stays once `above` comes over it."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return below
    if name == "student":
        default = StudentEntry.model_fields["model"].default
        return below if above.get("model", UNSET) in (UNSET, below.get("model", default)) else {}
    if name == "optimizer":
        default = Optimizer.model_fields["name"].default
        is_same = above.get("name", UNSET) in (UNSET, below.get("name", default))
        return {key: value for key, value in below.items() if is_same or key not in OF_ONE_OPTIMIZER}
    if name == "training" and ("epochs" in above or "steps" in above):
        return {key: value for key, value in below.items() if key not in {"epochs", "steps"}}
    return below


def _only(entries: list[Tables], key: str) -> Tables:
    head, _, word = key.partition(".")
    several = LISTS[head]
    if not entries:
        raise RecipeError(f"'{key}' needs a {head}; name one with --{head}, or in the recipe's `{several}`")
    if len(entries) > 1:
        keys = ", ".join(f"{several}.{entry_name(entry)}.{word}" for entry in entries)
        raise RecipeError(f"'{key}' could mean any of {len(entries)} {several}; write one of {keys}")
    return entries[0]


def _named(entries: list[Tables], key: str) -> tuple[Tables, str]:
    """The entry that `key` names, and the key inside it. Names may have dots in them: the longest one that fits."""
    several, _, rest = key.partition(".")
    names = {str(entry_name(entry)): entry for entry in entries}
    for name in sorted(names, key=len, reverse=True):
        if rest.startswith(f"{name}.") and len(rest) > len(name) + 1:
            return names[name], rest[len(name) + 1 :]
    if rest in names:
        raise RecipeError(f"'{key}' is a table; write '{key}.KEY=value'")
    singular = next(word for word, name in LISTS.items() if name == several)
    sentence = unknown_name(singular, rest.rpartition(".")[0] or rest, names)
    raise RecipeError(f"'{key}': {sentence}")
