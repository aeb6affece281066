"""The keys in which recipes differ, as users write them, and names of arms made from them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from distillkit.messages.dotted_keys import by_dotted_key

SEEDS = ("seed", "data.seed")
"""Keys that make a repetition and not another arm."""
LISTS = {"teachers": "teacher", "losses": "loss"}
"""Lists of a recipe, and the singular by which their only entry is addressed."""
WITHOUT_ENTRIES = {"teachers": "none", "losses": "ce"}
"""The value of the plain key where a list is empty."""
LONGEST_NAME = 60
"""Characters of an arm's name that is made from keys; an arm with a longer one gets a number."""

DifferingSettings = Mapping[str, Any]
"""Values by dotted key, of the keys in which recipes differ."""


def flat_recipe(recipe: Mapping[str, Any], lists: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The values of a recipe by dotted key, without `about` and without its lists, which `lists` replaces.

    An entry is addressed by its name, "losses.soft.tau", and the only one of its list by the singular, "loss.tau". The
    plain key, "loss", has the names of all entries.
    """
    flat = by_dotted_key({name: value for name, value in recipe.items() if name not in {"about", *LISTS}})
    for name, entries in lists.items():
        flat[LISTS[name]] = ", ".join(str(entry["name"]) for entry in entries) or WITHOUT_ENTRIES[name]
        for entry in entries:
            prefix = LISTS[name] if len(entries) == 1 else f"{name}.{entry['name']}"
            values = {f"{prefix}.{key}": value for key, value in by_dotted_key(entry).items() if key != "name"}
            flat |= values
    return flat


def differing(flat: Sequence[Mapping[str, Any]], stated: Collection[str] = ()) -> tuple[str, ...]:
    """The keys that do not have the same value in every recipe, in the order of the recipe, without seeds.

    An option of a teacher, a loss or another student counts only among the recipes that have it: the key "loss" alone
    says that a recipe has another loss, with the defaults of that loss. `stated` are options that some recipe sets
    itself; they count also if other recipes do not have them.
    """
    keys = dict.fromkeys(key for each in flat for key in each)
    open_tables = {*LISTS, *LISTS.values(), *(("student",) if _differ(flat, "student.model") else ())}
    return tuple(
        key
        for key in keys
        if key not in SEEDS
        and _differ(
            _having(flat, key) if "." in key and key.partition(".")[0] in open_tables and key not in stated else flat,
            key,
        )
    )


def _differ(flat: Sequence[Mapping[str, Any]], key: str) -> bool:
    return len({_frozen(each.get(key)) for each in flat}) > 1


def _having(flat: Sequence[Mapping[str, Any]], key: str) -> Sequence[Mapping[str, Any]]:
    return [each for each in flat if key in each]


def arm_names(settings: Sequence[DifferingSettings]) -> tuple[str, ...]:
    """A short, unique name for each arm: the values of the fewest keys that distinguish the arms.

    >>> arm_names([{"loss": "hard", "teacher": "a"}, {"loss": "soft", "teacher": "a"}])
    ('hard', 'soft')
    >>> arm_names([{"optimizer.lr": 0.1, "loss": "hard"}, {"optimizer.lr": 0.2, "loss": "hard"}])
    ('lr=0.1', 'lr=0.2')
    """
    keys = _distinguishing(settings)
    short = _short_keys(keys)
    names = [" ".join(_part(short[key], each[key]) for key in keys if key in each) for each in settings]
    numbered = len(set(names)) < len(names) or any(len(name) > LONGEST_NAME for name in names) or not all(names)
    return tuple(f"arm {number}" for number in range(1, len(names) + 1)) if numbered else tuple(names)


def value_text(value: Any) -> str:
    """A value of a recipe for people: "default" for a key that is not set."""
    if value is None:
        return "default"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _distinguishing(settings: Sequence[DifferingSettings]) -> list[str]:
    """The fewest keys that distinguish the arms, as far as taking the best key in turn finds them.

    Keys that every arm has come first, so that an arm without the option of another loss still has a name.
    """
    keys = sorted({key for each in settings for key in each}, key=lambda key: (_rank(key), key))
    chosen: list[str] = []
    for left in ([key for key in keys if all(key in each for each in settings)], keys):
        while best := max(left, key=lambda key: _groups(settings, [*chosen, key]), default=None):
            if _groups(settings, [*chosen, best]) == _groups(settings, chosen):
                break
            chosen.append(best)
    return sorted(chosen, key=lambda key: (_rank(key), key))


def _rank(key: str) -> int:
    """What names an arm best: its loss, its teacher, its student, then any other key."""
    first = ("loss", "teacher", "student.model")
    return first.index(key) if key in first else len(first)


def _groups(settings: Sequence[DifferingSettings], keys: Sequence[str]) -> int:
    return len({tuple(_frozen(each.get(key)) for key in keys) for each in settings})


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, or the whole key where two end alike."""
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def _part(key: str, value: Any) -> str:
    """A value in a name; names of plugins need no key."""
    text = value_text(value)
    return text if key in {"loss", "teacher", "model"} else f"{key}={text}"


def _frozen(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
