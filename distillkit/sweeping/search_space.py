"""The space of a search: a range or a list of values per recipe key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distillkit.errors import RecipeError
from distillkit.messages.dotted_keys import by_dotted_key
from distillkit.messages.text import shortened
from distillkit.recipe.named_options import NAME_OF_ENTRY
from distillkit.sweeping.grid import ArmSettings, as_text, dotted, split_values

if TYPE_CHECKING:
    from optuna import Trial

EXAMPLE = "write KEY=LOW..HIGH, KEY=LOW..HIGH:log, KEY=LOW..HIGH:step=STEP or KEY=VALUE,VALUE"
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"(?P<low>{NUMBER})\.\.(?P<high>{NUMBER})(?::(?:(?P<log>log)|step=(?P<step>{NUMBER})))?")
INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; integers if `low`, `high` and `step` are."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def is_integer(self) -> bool:
        return all(isinstance(each, int) for each in (self.low, self.high, self.step or 0))

    def suggest(self, trial: Trial, key: str) -> str:
        """The value that the sampler suggests, as typed after `--set`."""
        if self.is_integer:
            return str(trial.suggest_int(key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log))
        return repr(trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log))

    def ends(self) -> tuple[str, ...]:
        """The values to try in a plan: the lowest and the highest."""
        return repr(self.low), repr(self.high)


@dataclass(frozen=True)
class Choice:
    """Values without an order."""

    values: tuple[str, ...]

    def suggest(self, trial: Trial, key: str) -> str:
        """The value that the sampler suggests, as typed after `--set`."""
        return str(trial.suggest_categorical(key, self.values))

    def ends(self) -> tuple[str, ...]:
        """The values to try in a plan: all."""
        return self.values


Space = Mapping[str, Range | Choice]
"""What a search varies, by recipe key."""


def parse_domain(text: str, *, key: str, where: str) -> Range | Choice:
    """Parse `LOW..HIGH`, `LOW..HIGH:log`, `LOW..HIGH:step=STEP` or `VALUE,VALUE`.

    >>> parse_domain("1e-4..1e-2:log", key="optimizer.lr", where="--search")
    Range(low=0.0001, high=0.01, log=True, step=None)

    Raises: RecipeError.
    """
    match = RANGE.fullmatch(text.strip())
    if match is None:
        return _choice(text, key, where)
    low, high = (_number(match[name]) for name in ("low", "high"))
    step = None if match["step"] is None else _number(match["step"])
    if low >= high:
        raise RecipeError(f"{where} {key}={shortened(text)}: {low} is not below {high}; write LOW..HIGH")
    if match["log"] and low <= 0:
        raise RecipeError(f"{where} {key}={shortened(text)}: a logarithmic range starts above 0, not at {low}")
    if step is not None and step <= 0:
        raise RecipeError(f"{where} {key}={shortened(text)}: the step is {step}; it should be above 0")
    if step is not None and step > high - low:
        raise RecipeError(f"{where} {key}={shortened(text)}: the step is larger than the range")
    return Range(low, high, bool(match["log"]), step)


def _choice(text: str, key: str, where: str) -> Choice:
    values = tuple(split_values(text, with_options=key in NAME_OF_ENTRY))
    if len(values) < 2 or ".." in text:
        raise RecipeError(f"{where} {key}={shortened(text)} is no range and no list of values; {EXAMPLE}")
    if len(set(values)) < len(values):
        raise RecipeError(f"{where} {key}={shortened(text)} has a value twice; leave one out")
    return Choice(values)


def _number(text: str) -> float:
    return int(text) if INTEGER.fullmatch(text) else float(text)


def space_of(table: Mapping[str, Any], given: Sequence[str]) -> dict[str, str]:
    """The texts of `[sweep.search]` and of `--search` by key; an option replaces the key of the table.

    Raises: RecipeError.
    """
    texts: dict[str, str] = {}
    for key, value in by_dotted_key(table).items():
        if isinstance(value, list):
            texts[key] = ",".join(as_text(each) for each in value)
        elif isinstance(value, str):
            texts[key] = value
        else:
            shown = shortened(repr(value))
            raise RecipeError(
                f"'sweep.search.{key}' is {shown}; it should be a range, such as '1e-4..1e-2:log', or a list"
            )
    typed: set[str] = set()
    for text in given:
        key, equals, domain = text.partition("=")
        key = key.strip()
        if not equals or not domain.strip() or not key:
            raise RecipeError(f"--search {shortened(text)} has no range and no values; {EXAMPLE}")
        if key in typed:
            raise RecipeError(f"--search sets '{key}' twice; write its range once")
        typed.add(key)
        texts = {other: value for other, value in texts.items() if dotted(other) != dotted(key)} | {key: domain.strip()}
    return texts


def parse_space(texts: Mapping[str, str], where: str = "--search") -> dict[str, Range | Choice]:
    """The domains of the texts of `space_of`. Raises: RecipeError."""
    return {key: parse_domain(text, key=key, where=where) for key, text in texts.items()}


def probes(space: Space) -> Iterator[ArmSettings]:
    """Settings to plan before a search starts: every end of a range and every choice, with the first of all others."""
    first = {key: domain.ends()[0] for key, domain in space.items()}
    yield first
    for key, domain in space.items():
        for text in domain.ends()[1:]:
            yield {**first, key: text}
