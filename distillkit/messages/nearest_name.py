"""Suggest the nearest known name for a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(value: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known name closest to `value`, or None if no ratio of difflib reaches `cutoff`."""
    # Sorted, so that the result for equally similar names does not depend on the order of a set.
    matches = get_close_matches(value, sorted(known), n=1, cutoff=cutoff)
    return matches[0] if matches else None


MANY = 40
"""A message lists at most this many names; of more, only the nearest."""


def unknown_name(what: str, value: str, known: Iterable[str]) -> str:
    """Message for an unknown name: the nearest name, then all known names, or the nearest of very many.

    >>> unknown_name("loss", "hrad", ["hard", "soft"])
    "unknown loss 'hrad'; did you mean 'hard'? (known: hard, soft)"
    """
    names = sorted(known)
    guess = nearest(value, names)
    question = f"; did you mean '{guess}'?" if guess else ";"
    if len(names) > MANY:
        names = [*get_close_matches(value, names, n=5, cutoff=0.0), f"... {len(names)} in all"]
    listing = f" (known: {', '.join(names)})" if guess else f" known: {', '.join(names) or 'none'}"
    return f"unknown {what} '{value}'{question}{listing}"
