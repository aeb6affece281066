"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where there is not one of it.

    >>> counted(1, "image"), counted(1297, "image"), counted(0, "step")
    ('1 image', '1,297 images', '0 steps')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
