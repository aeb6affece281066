"""Licences that a student is taught under: those of its teachers' weights, where they may extend to the student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from distillkit.contracts.model import ModelSpec
from distillkit.planning.plan import LossPlan


def taught_by(student: ModelSpec, losses: Mapping[str, LossPlan]) -> ModelSpec:
    """The spec of a student with the licences that its teachers pass on; its own initial weights may have some too."""
    teachers = (plan.teacher_spec for plan in losses.values() if plan.teacher is not None)
    passed_on = (licence for teacher in teachers for licence in teacher.passed_on_licences)
    return replace(student, taught_under=tuple(dict.fromkeys((*student.taught_under, *passed_on))))


def licence_notes(student: ModelSpec) -> Iterator[str]:
    """A note for each licence that the student is taught under."""
    for licence in student.taught_under:
        yield f"taught by weights under {licence}; check whether its terms extend to the student"
