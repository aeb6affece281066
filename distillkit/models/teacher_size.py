"""Image size of a teacher (`teacher.size`), and a model's spec at another image size."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from timm.models import is_model

from distillkit.contracts.model import ModelSpec
from distillkit.errors import RecipeError
from distillkit.models.timm_networks import TimmRequest, describe_network

TeacherSize = Literal["auto", "student", "native"] | int
SMALLEST, LARGEST = 0.5, 2.0
"""Limits of the sizes at which a teacher is worth evaluating, as factors of its native size."""


def teacher_size(teacher: ModelSpec, student: ModelSpec, size: TeacherSize) -> tuple[int, int]:
    """Image size (height, width) of the teacher's input.

    "auto" is the native size: the student's size can leave a teacher at chance, and resizing costs it little
    (docs/benchmarks/README.md, "The size of a teacher's images").
    Raises: RecipeError for a size that the teacher does not accept.
    """
    native = teacher.image_size
    if size in ("auto", "native"):
        return native
    chosen = student.image_size if size == "student" else (int(size), int(size))
    if chosen != native and not teacher.flexible_size:
        raise RecipeError(
            f"teacher '{teacher.name}' accepts only images of {native[0]}x{native[1]} pixels and teacher.size is "
            f'{chosen[0]}x{chosen[1]}; set teacher.size = "native"'
        )
    spec_at(teacher, chosen)  # for its error
    return chosen


def sizes_to_compare(teacher: ModelSpec, student: ModelSpec, seen: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """The size that the teacher sees, its native size, and the student's if that is not far from the native one."""
    near = (student.image_size,) if _is_near(teacher, student.image_size) else ()
    return tuple(dict.fromkeys((seen, teacher.image_size, *near)))


def spec_at(spec: ModelSpec, size: tuple[int, int]) -> ModelSpec:
    """A model's spec at another image size, with the grids of that size.

    Raises: RecipeError if a timm network does not accept the size.
    """
    if size == spec.image_size or not spec.flexible_size:
        return spec
    # A timm network is traced: not all of them round up as `_scaled` does.
    if is_model(spec.architecture.partition(".")[0]):
        described = describe_network(TimmRequest(spec.architecture, spec.name, spec.classes, size))
        return replace(spec, image_size=size, grids=described.grids)
    grids = tuple(
        (_scaled(rows, size[0], spec.image_size[0]), _scaled(columns, size[1], spec.image_size[1]))
        for rows, columns in spec.grids
    )
    return replace(spec, image_size=size, grids=grids)


def _scaled(cells: int, pixels: int, native: int) -> int:
    """Grid cells at another image size for a stack of padded convolutions, each of which rounds up."""
    return -(-pixels * cells // native)


def _is_near(teacher: ModelSpec, size: tuple[int, int]) -> bool:
    if not teacher.flexible_size:
        return False
    pairs = zip(teacher.image_size, size, strict=True)
    if not all(SMALLEST * native <= pixels <= LARGEST * native for native, pixels in pairs):
        return False
    try:
        spec_at(teacher, size)
    except RecipeError:
        return False
    return True
