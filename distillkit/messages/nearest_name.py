"""Suggest the nearest known name for a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from distillkit.messages.text import shortened


def nearest(value: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known name closest to `value`, or None if no ratio of difflib reaches `cutoff`."""
    # Sorted, so that the result for equally similar names does not depend on the order of a set.
    matches = get_close_matches(value, sorted(known), n=1, cutoff=cutoff)
    return matches[0] if matches else None


MANY = 15
"""A message lists at most this many names; of more, only the nearest."""


def listed(value: str, known: Iterable[str]) -> str:
    """The known names for a message, or those nearest to `value` of very many.

    >>> listed("b", ["b", "a"]), listed("9", map(str, range(20)))
    ('a, b', '9, 19, 8, 7, 6, ... 20 in all')
    """
    names = sorted(known)
    if len(names) > MANY:
        names = [*get_close_matches(value, names, n=5, cutoff=0.0), f"... {len(names)} in all"]
    return ", ".join(names) or "none"


def unknown_name(what: str, value: str, known: Iterable[str]) -> str:
    """Message for an unknown name: the nearest name, then all known names, or the nearest of very many.

    >>> unknown_name("loss", "hrad", ["hard", "soft"])
    "unknown loss 'hrad'; did you mean 'hard'? (known: hard, soft)"
    """
    names = sorted(known)
    value = shortened(value)  # a file may name anything; comparing a long name takes minutes
    guess = nearest(value, names)
    question = f"; did you mean '{guess}'?" if guess else ";"
    listing = f" (known: {listed(value, names)})" if guess else f" known: {listed(value, names)}"
    return f"unknown {what} '{value}'{question}{listing}"
