"""Turn pydantic's findings into sentences: dotted key, value given, what is allowed, nearest name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distillkit.messages.text import shortened

Location = tuple[int | str, ...]

ALLOWED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "string_unicode": "a text in UTF-8",
    "tuple_type": "a list",
    "list_type": "a list",
}
"""What pydantic's findings about types say in the words of a recipe file."""

MOST = 20
"""Problems that are explained and listed; of more, only the number is given."""


def explain(error: ValidationError, model: type[BaseModel], *, prefix: str = "") -> str:
    """All problems of `error` together: one line where there is one, a list where there are several."""
    return together(problems(error, model), prefix=prefix)


def problems(error: ValidationError, model: type[BaseModel], given: Any = None) -> list[str]:
    """One sentence per wrong key. `given` is what was validated; with it, entries of a list are called by name."""
    by_key: dict[Location, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_key.setdefault(_location(details), []).append(details)
    # Each looks for the nearest of all known keys, which for a file of a thousand keys takes minutes.
    return [
        _problem(location, found, model, given) if number < MOST else f"'{_dotted(location, given)}' is wrong"
        for number, (location, found) in enumerate(by_key.items())
    ]


def together(problems: Sequence[str], *, prefix: str = "") -> str:
    """The text of one error: one line where there is one problem, a list where there are several."""
    subject = f"{prefix}: " if prefix else ""
    if len(problems) == 1:
        return subject + problems[0]
    shown = [*problems[:MOST], *([f"and {len(problems) - MOST:,} more"] if len(problems) > MOST else [])]
    return f"{subject}{len(problems):,} problems\n" + "\n".join(f"  {problem}" for problem in shown)


def first_mistake(error: ValidationError) -> str:
    """The first finding alone, in pydantic's words: for files that distillkit writes."""
    details = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, details['loc'])) or 'the whole'}: {details['msg']}"


def newer_version(content: Any, key: str, known: int) -> int | None:
    """The version that a file gives under `key`, if it is newer than `known`; else None."""
    version = content.get(key) if isinstance(content, Mapping) else None
    return version if isinstance(version, int) and version > known else None


def known_keys(model: type[BaseModel]) -> list[str]:
    """The keys that a table takes, as the user writes them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def entry_name(entry: Any) -> str | None:
    """How an entry of `teachers` or `losses` is called, None where it says nothing of the kind."""
    if not isinstance(entry, Mapping):
        return None
    return next((str(entry[key]) for key in ("name", "model", "loss") if entry.get(key)), None)


def _location(details: ErrorDetails) -> Location:
    """The key's path without the names of union branches that pydantic appends."""
    path = details["loc"]
    # An unknown key is what the user wrote, and may be called "int".
    written = len(path) - 1 if details["type"] == "extra_forbidden" else len(path)
    branches = (isinstance(part, str) and _is_branch(part) for part in path[:written])
    return (*(part for part, is_branch in zip(path, branches, strict=False) if not is_branch), *path[written:])


def _is_branch(part: str) -> bool:
    branches = ("literal[", "constrained", "function-", "tuple[")
    return part in {"str", "int", "float", "bool"} or part.startswith(branches)


def _problem(location: Location, found: Sequence[ErrorDetails], model: type[BaseModel], given: Any) -> str:
    key = _dotted(location, given)
    details = found[0]
    if details["type"] == "extra_forbidden":
        return _unknown_key(key, location, model)
    if details["type"] == "missing":
        return f"'{key}' is missing"
    if details["type"] == "value_error":
        message = details["msg"].removeprefix("Value error, ")
        return f"'{key}': {message}" if key else message
    if details["type"] == "model_type":
        return f"'{key}' is {_shown(details['input'])}; it should be a table"
    # pydantic reports every branch of a union; the value is right when it satisfies any of them.
    allowed = " or ".join(dict.fromkeys(_allowed(branch) for branch in found))
    return f"'{key}' is {_shown(details['input'])}; it should be {allowed}"


def _allowed(details: ErrorDetails) -> str:
    if details["type"] == "string_pattern_mismatch":
        return f"a text that matches {details['ctx']['pattern']}"
    return ALLOWED.get(details["type"], details["msg"].removeprefix("Input should be "))


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else shortened(repr(value))


def _dotted(location: Location, given: Any) -> str:
    """The key as the user writes it: entries of a list by their names, "teachers.regnety16gf.size"."""
    parts: list[str] = []
    for part in location:
        try:
            given = given[part]
        except (TypeError, KeyError, IndexError):
            given = None
        parts.append((isinstance(part, int) and entry_name(given)) or str(part))
    return shortened(".".join(parts))


def _unknown_key(key: str, location: Location, model: type[BaseModel]) -> str:
    """Propose the same word in another table, then a near one in this table, then a near one anywhere."""
    *path, word = location
    table = _table(model, tuple(path))
    here = [(*path, name) for name in known_keys(table)] if table else []
    anywhere = list(_tree(model))
    guess = (
        next((known for known in anywhere if known[-1] == word), None)
        or _nearest(str(word), here, cutoff=0.5)
        or _nearest(str(word), anywhere, cutoff=0.75)
    )
    if guess:
        return f"unknown key '{key}'; did you mean '{'.'.join(map(str, guess))}'?"
    known = ", ".join(".".join(map(str, path)) for path in sorted(here, key=str))
    return f"unknown key '{key}'; known: {known or 'none'}"


def _nearest(word: str, known: Iterable[Location], *, cutoff: float) -> Location | None:
    """The path whose last part is nearest to `word`; the first of those that end alike."""
    by_last: dict[str, Location] = {}
    for path in known:
        by_last.setdefault(str(path[-1]), path)
    return next((by_last[match] for match in get_close_matches(word, by_last, n=1, cutoff=cutoff)), None)


def _tree(model: type[BaseModel], path: Location = ()) -> Iterator[Location]:
    """Every key of `model` and of the tables in it; lists of tables have no fixed path and are left out."""
    for name, field in model.model_fields.items():
        here = (*path, field.alias or name)
        yield here
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _tree(field.annotation, here)


def _table(model: type[BaseModel], path: Location) -> type[BaseModel] | None:
    """The pydantic model that stands at `path` below `model`."""
    current: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, int) or current is None:
            continue
        names = {field.alias or name: field for name, field in current.model_fields.items()}
        current = _first_model(names[part].annotation) if part in names else None
    return current


def _first_model(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model inside an annotation such as `tuple[LossEntry, ...]` or `Data | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {tuple, list, Union, UnionType}:
        return next((found for part in get_args(annotation) if (found := _first_model(part))), None)
    return None
