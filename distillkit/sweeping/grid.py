"""The grid of a sweep: which values of which recipe keys, and the arms that they make."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import tomli_w

from distillkit.errors import RecipeError
from distillkit.messages.dotted_keys import by_dotted_key
from distillkit.messages.text import shortened
from distillkit.recipe.named_options import KEYS, NAME_OF_ENTRY
from distillkit.recipe.overrides import parse_value
from distillkit.storage.atomic import stem_of

LARGEST = 10_000
"""Limit on the arms of a grid, so that a misspelt one does not fill the memory."""
EXAMPLE = "write KEY=VALUE,VALUE, such as seed=0,1,2"
OPENING, CLOSING, QUOTES = "([{", ")]}", "\"'"
ArmSettings = Mapping[str, str]
"""The keys of an arm with their values as typed after `--set`; an empty value resets the key."""


@dataclass(frozen=True)
class GridAxis:
    """Recipe keys that change together, and the values that they take; every value has one text per key."""

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        return ",".join(self.keys)


@dataclass(frozen=True)
class SweepArm:
    """One run of a sweep: the name of its directory and the recipe keys that it sets."""

    name: str
    settings: ArmSettings


def parse_axis(text: str) -> GridAxis:
    """Parse `KEY=VALUE,VALUE` as typed after `--grid`. `KEY,KEY=[VALUE,VALUE],...` changes several keys together.

    >>> parse_axis("loss=hard,soft:tau=2,weight=0.9").values
    (('hard',), ('soft:tau=2,weight=0.9',))
    >>> parse_axis("student.width,student.heads=[64,4],[128,8]").values
    (('64', '4'), ('128', '8'))

    Raises: RecipeError.
    """
    name, equals, values = text.partition("=")
    if not equals or not values.strip():
        raise RecipeError(f"--grid {shortened(text)} has no values; {EXAMPLE}")
    split = list(split_values(values, with_options=name.strip() in NAME_OF_ENTRY))
    return _axis(name, split if "," not in name else [parse_value(each) for each in split], "--grid")


def axes_of_table(table: Mapping[str, Any]) -> list[GridAxis]:
    """The axes of the table `[sweep.grid]`: a list of values per key; keys may be nested or dotted.

    Raises: RecipeError.
    """
    axes = []
    for key, values in by_dotted_key(table).items():
        if not isinstance(values, list):
            raise RecipeError(
                f"'sweep.grid.{key}' is {shortened(repr(values))}; it should be a list of values, such as [0, 1, 2]"
            )
        if not values:
            raise RecipeError(f"'sweep.grid.{key}' has no values; write a list of values, such as [0, 1, 2]")
        texts = values if "," in key else [as_text(value) for value in values]
        axes.append(_axis(key, texts, "sweep.grid"))
    return axes


def _axis(name: str, values: Sequence[Any], where: str) -> GridAxis:
    keys = tuple(key.strip() for key in name.split(","))
    if not all(key and all(key.split(".")) for key in keys):
        raise RecipeError(f"{where}: '{shortened(name)}' is not a recipe key; {EXAMPLE}")
    rows = [_row(keys, value, where) for value in values] if len(keys) > 1 else [(str(text),) for text in values]
    for index, row in enumerate(rows):
        if row in rows[:index]:
            shown = ",".join(row)
            raise RecipeError(f"{where}: '{shortened(name)}' has the value '{shortened(shown)}' twice; leave one out")
    return GridAxis(keys, tuple(rows))


def _row(keys: tuple[str, ...], value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) != len(keys):
        shown = shortened(value if isinstance(value, str) else as_text(value))
        raise RecipeError(
            f"{where}: '{','.join(keys)}' has the value {shown}; it should be a list of {len(keys)} values, one per "
            'key, with text in double quotes, such as [2, "hard"]'
        )
    return tuple(as_text(each) for each in value)


def split_values(text: str, *, with_options: bool = False) -> Iterator[str]:
    """Split at commas outside brackets and quotes; `with_options` also keeps the options of a loss together.

    >>> list(split_values('[0.08,1.0],"a,b",c'))
    ['[0.08,1.0]', '"a,b"', 'c']
    """
    depth, quote, start = 0, "", 0
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES:
            quote = character
        elif character in OPENING + CLOSING:
            depth += 1 if character in OPENING else -1
        elif character == "," and depth <= 0:
            # The same rule as in `parse_loss`: the options of a loss are separated by commas too.
            if with_options and re.match(r",[\w-]+=", text[index:]):
                continue
            yield text[start:index].strip()
            start = index + 1
    yield text[start:].strip()


def as_text(value: Any) -> str:
    """A value of a TOML file as typed after `--set`; a loss as a table becomes `name:key=value,...`.

    >>> as_text(0.1), as_text("hard"), as_text("12"), as_text([1, "a"]), as_text({"loss": "soft", "tau": 2})
    ('0.1', 'hard', '"12"', '[1, "a"]', 'soft:tau=2')
    """
    if isinstance(value, str):
        return value if value == value.strip() and parse_value(value) == value and value else _inline(value)
    if isinstance(value, dict) and "loss" in value:
        options = ",".join(f"{key}={as_text(each)}" for key, each in value.items() if key != "loss")
        return f"{value['loss']}:{options}" if options else str(value["loss"])
    return _inline(value)


def _inline(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_inline(key)} = {_inline(each)}' for key, each in value.items())}}}"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def dotted(key: str) -> str:
    """The recipe key that a key of a grid sets: "epochs" is "training.epochs"."""
    return KEYS.get(key, key)


def arms_of(axes: Sequence[GridAxis]) -> tuple[SweepArm, ...]:
    """All combinations of the values, the last axis changing fastest.

    Raises: RecipeError for a key in two axes, or more than `LARGEST` arms.
    """
    keys = [dotted(key) for axis in axes for key in axis.keys]
    for key in keys:
        if keys.count(key) > 1:
            raise RecipeError(f"the grid sets '{key}' twice; write its values once, such as {key}=VALUE,VALUE")
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > LARGEST:
        raise RecipeError(f"the grid has {count:,} arms, more than the limit of {LARGEST:,}; leave out some values")
    settings = [_settings(axes, values) for values in product(*(axis.values for axis in axes))]
    return tuple(SweepArm(name, each) for name, each in zip(_names(settings), settings, strict=True))


def _settings(axes: Sequence[GridAxis], values: Iterable[tuple[str, ...]]) -> dict[str, str]:
    return {key: text for axis, row in zip(axes, values, strict=True) for key, text in zip(axis.keys, row, strict=True)}


def _names(settings: Sequence[ArmSettings]) -> list[str]:
    """Directory names that do not depend on other arms, except for those whose special characters alone differ."""
    plain = ["_".join(f"{key}={_file_name(text)}" for key, text in each.items()) for each in settings]
    return [
        stem_of(name if plain.count(name) == 1 else f"{name}_{_digest(each)}")
        for name, each in zip(plain, settings, strict=True)
    ]


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.+=-]+", "-", text).strip("-") or "default" if text else "default"


def _digest(settings: ArmSettings) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
