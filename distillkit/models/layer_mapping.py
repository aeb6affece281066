"""Which of the teacher's layers teaches which of the student's."""

from __future__ import annotations


def matched_layers(student: int, teacher: int) -> tuple[int, ...]:
    """For each student layer i of `student`, the teacher's layer round((i + 1) * teacher / student) - 1, from 0.

    Both last layers always meet, and equal depths match one to one: 4 of 12 are layers 2, 5, 8, 11. A deeper student
    hears some layers of the teacher more than once. Halves round up, and nothing lies below layer 0.

    Source: ADViT compares "each layer" of models of equal depth; the mapping for others is ours, in whole numbers.
    """
    return tuple(max((2 * (layer + 1) * teacher + student) // (2 * student) - 1, 0) for layer in range(student))
