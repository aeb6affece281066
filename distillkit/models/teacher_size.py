"""The image size that a teacher sees, and its description at another size than its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from timm.models import is_model

from distillkit.contracts.model import ModelSpec
from distillkit.errors import RecipeError
from distillkit.models.timm_networks import TimmRequest, describe_network

TeacherSize = Literal["auto", "student", "native"] | int
SMALLEST, LARGEST = 0.5, 2.0
"""How far from its native size a teacher may look by `size = "auto"`, as a factor."""


def teacher_size(teacher: ModelSpec, student: ModelSpec, size: TeacherSize) -> tuple[int, int]:
    """The (height, width) that the teacher sees.

    "auto" is the student's size where the teacher can see it and it is between half and twice the teacher's own, and
    otherwise the teacher's own.
    Raises: RecipeError for a size that the teacher cannot see.
    """
    native = teacher.image_size
    if size == "native":
        return native
    if size == "auto":
        return student.image_size if _is_comfortable(teacher, student.image_size) else native
    asked = student.image_size if size == "student" else (int(size), int(size))
    if asked != native and not teacher.flexible_size:
        raise RecipeError(
            f"teacher '{teacher.name}' sees {native[0]}x{native[1]} pixels only and teacher.size asks for "
            f'{asked[0]}x{asked[1]}; set teacher.size = "native"'
        )
    spec_at(teacher, asked)
    return asked


def spec_at(spec: ModelSpec, size: tuple[int, int]) -> ModelSpec:
    """The description of a model that looks at images of another size: its grids change.

    Raises: RecipeError where a network of timm cannot see this size.
    """
    if size == spec.image_size or not spec.flexible_size:
        return spec
    if is_model(spec.architecture.partition(".")[0]):
        described = describe_network(TimmRequest(spec.architecture, spec.name, spec.classes, size))
        return replace(spec, image_size=size, grids=described.grids)
    grids = tuple(
        (_scaled(rows, size[0], spec.image_size[0]), _scaled(columns, size[1], spec.image_size[1]))
        for rows, columns in spec.grids
    )
    return replace(spec, image_size=size, grids=grids)


def _scaled(cells: int, pixels: int, native: int) -> int:
    """Cells at another size for a chain of padded convolutions, each of which rounds its halves up."""
    return -(-pixels * cells // native)


def _is_comfortable(teacher: ModelSpec, size: tuple[int, int]) -> bool:
    if not teacher.flexible_size:
        return False
    if not all(SMALLEST * own <= pixels <= LARGEST * own for own, pixels in zip(teacher.image_size, size, strict=True)):
        return False
    try:
        spec_at(teacher, size)
    except RecipeError:
        return False
    return True
