"""Nested tables as one table with dotted keys, as users type and read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def by_dotted_key(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted key; lists are values.

    >>> by_dotted_key({"data": {"seed": 3}, "losses": ["hard"]})
    {'data.seed': 3, 'losses': ['hard']}
    """
    flat: dict[str, Any] = {}
    for name, value in tables.items():
        if isinstance(value, Mapping):
            flat |= by_dotted_key(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two nested tables differ, sorted, and both values; None for a key that one lacks.

    >>> differences({"data": {"seed": 3, "labels": 10}}, {"data": {"seed": 4, "labels": 10}, "seed": 0})
    {'data.seed': (3, 4), 'seed': (None, 0)}
    """
    one, other = by_dotted_key(ours), by_dotted_key(theirs)
    pairs = {key: (one.get(key), other.get(key)) for key in sorted(one.keys() | other.keys())}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
