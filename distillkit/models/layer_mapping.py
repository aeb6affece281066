"""Mapping from student layers to teacher layers."""

from __future__ import annotations


def matched_layers(student: int, teacher: int) -> tuple[int, ...]:
    """The teacher layer for each of the student's layers i: round((i + 1) * teacher / student) - 1, counted from 0.

    The last layers always match, and equal depths match one to one. 4 student layers and 12 teacher layers give 2, 5,
    8, 11. A deeper student matches some teacher layers more than once. Halves round up; the lowest result is 0.

    Source: ADViT compares "each layer" of models of equal depth; the mapping for unequal depths is ours.
    """
    # round(a / b) with halves up, in integers: (2a + b) // 2b. Python's round() rounds halves to even.
    return tuple(max((2 * (layer + 1) * teacher + student) // (2 * student) - 1, 0) for layer in range(student))
