"""Validation errors of pydantic as messages: dotted key, given value, allowed values, nearest name."""

from __future__ import annotations

import json
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
    "string_type": "a string",
    "string_unicode": "a string in UTF-8",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
}
"""Pydantic's type errors in the terms of a recipe file."""

NAME_PATTERN = r"^[^/.\s]+$"
"""The pattern of names in a recipe, explained in words."""

MOST = 20
"""Maximum number of problems that are explained and listed; beyond it only their number is given."""


def explain(error: ValidationError, model: type[BaseModel], *, prefix: str = "") -> list[str]:
    """All problems of a validation error, as `together`."""
    return together(problems(error, model), prefix=prefix)


def problems(error: ValidationError, model: type[BaseModel], given: Any = None) -> list[str]:
    """One message per wrong key. `given` is the validated data; with it, entries of a list are named, not numbered."""
    by_key: dict[Location, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_key.setdefault(_location(details), []).append(details)
    # Each message searches all known keys for the nearest; for a file of a thousand wrong keys that takes minutes.
    return [
        _problem(location, errors, model, given) if number < MOST else f"'{_dotted(location, given)}' is wrong"
        for number, (location, errors) in enumerate(by_key.items())
    ]


def unknown_keys(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One message per unknown key; other problems of the error are left out."""
    locations = [_location(each) for each in error.errors(include_url=False) if each["type"] == "extra_forbidden"]
    return [_unknown_key(_dotted(location, None), location, model) for location in locations]


def together(problems: Sequence[str], *, prefix: str = "") -> list[str]:
    """The arguments of one error for all problems: a message for one problem, else a message and the items of a list.

    >>> together(["unknown key 'tua'", "'tau' is -1"], prefix="loss 'soft'")
    ["loss 'soft': 2 problems", "unknown key 'tua'", "'tau' is -1"]
    """
    subject = f"{prefix}: " if prefix else ""
    if len(problems) == 1:
        return [subject + problems[0]]
    more = [f"and {len(problems) - MOST:,} more"] if len(problems) > MOST else []
    return [f"{subject}{len(problems):,} problems", *problems[:MOST], *more]


def first_problem(error: ValidationError) -> str:
    """The first problem only, in pydantic's words: for files that distillkit writes and users do not edit."""
    details = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, details['loc'])) or 'the file'}: {details['msg']}"


def newer_version(content: Any, key: str, known: int) -> int | None:
    """The version under `key` in a file's content, if it is newer than `known`; else None."""
    version = content.get(key) if isinstance(content, Mapping) else None
    return version if isinstance(version, int) and version > known else None


def known_keys(model: type[BaseModel]) -> list[str]:
    """The keys of a table, as the user writes them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def entry_name(entry: Any) -> str | None:
    """Name of an entry of `teachers` or `losses`, or None if it has none."""
    if not isinstance(entry, Mapping):
        return None
    return next((str(entry[key]) for key in ("name", "model", "loss") if entry.get(key)), None)


def _location(details: ErrorDetails) -> Location:
    """The path of a key, without the names of union branches that pydantic inserts."""
    path = details["loc"]
    # The last part of an unknown key is the user's text, which may be "int".
    written = len(path) - 1 if details["type"] == "extra_forbidden" else len(path)
    branches = (isinstance(part, str) and _is_branch(part) for part in path[:written])
    return (*(part for part, is_branch in zip(path, branches, strict=False) if not is_branch), *path[written:])


def _is_branch(part: str) -> bool:
    branches = ("literal[", "constrained", "function-", "tuple[")
    return part in {"str", "int", "float", "bool"} or part.startswith(branches)


def _problem(location: Location, errors: Sequence[ErrorDetails], model: type[BaseModel], given: Any) -> str:
    key = _dotted(location, given)
    details = errors[0]
    if details["type"] == "extra_forbidden":
        return _unknown_key(key, location, model)
    if details["type"] == "missing":
        return f"'{key}' is missing"
    if details["type"] == "value_error":
        message = details["msg"].removeprefix("Value error, ")
        return f"'{key}': {message}" if key else message
    if details["type"] == "model_type":
        return f"'{key}' is {_shown(details['input'])}; it should be a table"
    # pydantic reports every branch of a union; the value is valid if it matches any of them.
    allowed = " or ".join(dict.fromkeys(_allowed(branch) for branch in errors))
    example = (
        f", such as [{shortened(json.dumps(details['input']))}]" if _needs_brackets(location, details, model) else ""
    )
    return f"'{key}' is {_shown(details['input'])}; it should be {allowed}{example}"


def _needs_brackets(location: Location, details: ErrorDetails, model: type[BaseModel]) -> bool:
    """Whether a single value was given for a list of such values, whatever its length."""
    if details["type"] not in {"tuple_type", "list_type"} or not isinstance(details["input"], int | float | str):
        return False
    *path, name = location
    table = _table(model, tuple(path))
    names = {field.alias or name: field for name, field in table.model_fields.items()} if table else {}
    annotation = names[name].annotation if name in names else None
    is_union = get_origin(annotation) in {Union, UnionType}
    branches = get_args(annotation) if is_union else (annotation,)
    is_open = any(get_origin(branch) is list or Ellipsis in get_args(branch) for branch in branches)
    return is_open and _first_model(annotation) is None


def _allowed(details: ErrorDetails) -> str:
    if details["type"] == "string_pattern_mismatch":
        pattern = details["ctx"]["pattern"]
        return "a name without spaces, '/' or '.'" if pattern == NAME_PATTERN else f"a string that matches {pattern}"
    return ALLOWED.get(details["type"], details["msg"].removeprefix("Input should be "))


def _shown(value: Any) -> str:
    # TOML writes true and false.
    return str(value).lower() if isinstance(value, bool) else shortened(repr(value))


def _dotted(location: Location, given: Any) -> str:
    """The dotted key, with the entries of a list by name: "teachers.regnety16gf.size"."""
    parts: list[str] = []
    for part in location:
        try:
            given = given[part]
        except (TypeError, KeyError, IndexError):
            given = None
        parts.append((isinstance(part, int) and entry_name(given)) or str(part))
    return shortened(".".join(parts))


def _unknown_key(key: str, location: Location, model: type[BaseModel]) -> str:
    """Suggest the same key in another table, else a similar key in this table, else a similar key anywhere."""
    *path, key_name = location
    table = _table(model, tuple(path))
    here = [(*path, name) for name in known_keys(table)] if table else []
    anywhere = list(_tree(model))
    # The cutoff for keys of other tables is higher: among all keys, one is always a little similar.
    guess = (
        next((known for known in anywhere if known[-1] == key_name), None)
        or _nearest(str(key_name), here, cutoff=0.5)
        or _nearest(str(key_name), anywhere, cutoff=0.75)
    )
    if guess:
        return f"unknown key '{key}'; did you mean '{'.'.join(map(str, guess))}'?"
    known = ", ".join(".".join(map(str, path)) for path in sorted(here, key=str))
    return f"unknown key '{key}'; known: {known or 'none'}"


def _nearest(name: str, known: Iterable[Location], *, cutoff: float) -> Location | None:
    """The path whose last part is nearest to `name`; the first of several with the same last part."""
    by_last: dict[str, Location] = {}
    for path in known:
        by_last.setdefault(str(path[-1]), path)
    return next((by_last[match] for match in get_close_matches(name, by_last, n=1, cutoff=cutoff)), None)


def _tree(model: type[BaseModel], path: Location = ()) -> Iterator[Location]:
    """Paths of all keys of `model` and its tables. Lists of tables have no fixed path and are left out."""
    for name, field in model.model_fields.items():
        here = (*path, field.alias or name)
        yield here
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _tree(field.annotation, here)


def _table(model: type[BaseModel], path: Location) -> type[BaseModel] | None:
    """The pydantic model at `path` below `model`."""
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
