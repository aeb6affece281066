"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where there is not one of it.

    >>> counted(1, "image"), counted(1297, "image"), counted(2, "process")
    ('1 image', '1,297 images', '2 processes')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"
