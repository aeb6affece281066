"""The `image_size` option: one number of pixels, or [height, width]."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator

LARGEST_SIDE = 4_096
"""Most pixels per side: far above any student; a batch of larger images does not fit into memory."""


def height_and_width(value: Any) -> tuple[int, int]:
    """Height and width in pixels, from one number or from [height, width].

    >>> height_and_width(32), height_and_width([32, 48])
    ((32, 32), (32, 48))
    """
    sides = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"{value!r} is not an image size; give a number of pixels, or [height, width]")
    if max(sides) > LARGEST_SIDE:
        raise ValueError(f"{value!r} is too large; give at most {LARGEST_SIDE:,} pixels per side")
    return sides[0], sides[1]


ImageSizeOption: TypeAlias = Annotated[tuple[int, int], BeforeValidator(height_and_width)]
"""Pixels: one number for a square, or [height, width]."""
