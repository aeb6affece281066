"""Masked teachers (`teachers.masked`): what they need of the student, the teacher and the losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from distillkit.contracts.model import ModelSpec, Read, Signal
from distillkit.contracts.signal_matching import KINDS, SIGNAL_NAMES
from distillkit.errors import BankError, SignalError
from distillkit.models.build import build_model
from distillkit.models.kept_patches import why_not_droppable
from distillkit.recipe.schema import Recipe

if TYPE_CHECKING:
    from distillkit.planning.models import DescribedTeacher
    from distillkit.planning.plan import LossPlan

READ_BY_STUDENT = Read(Signal.CLS_ATTENTION)
"""The student's attention row, of its last layer, that chooses the patches."""
NEEDS_ALL = (Signal.CLS_ATTENTION, Signal.PATCH_TOKENS, Signal.RAW_TOKENS)
"""Signals that have a value for each patch."""


def masked_reads(
    losses: Mapping[str, LossPlan], teachers: Mapping[str, DescribedTeacher], student: ModelSpec
) -> set[Read]:
    """What masked teachers read of the student; nothing without one.

    Raises: SignalError if a student, teacher or loss does not allow masking.
    """
    reads: set[Read] = set()
    for name, teacher in teachers.items():
        readers = [loss for loss in losses.values() if loss.teacher == name]
        if teacher.entry.masked and readers:
            _check_losses(teacher, readers)
            _check_teacher(teacher)
            _check_student(teacher, student)
            reads.add(READ_BY_STUDENT)
    return reads


def refuse_bank(recipe: Recipe) -> None:
    """Refuse a bank for a run with a masked teacher.

    Raises: BankError.
    """
    masked = next((teacher for teacher in recipe.teachers if teacher.masked), None)
    if masked is not None and (recipe.bank is not None or masked.only_in_bank):
        raise BankError(
            f"a bank cannot store the targets of teacher '{masked.name}', which has masked = {masked.masked:g}: they "
            "depend on the student, which chooses its patches; leave out --bank, or set masked to 0"
        )


def _check_losses(teacher: DescribedTeacher, losses: Iterable[LossPlan]) -> None:
    for loss in losses:
        for signal in NEEDS_ALL:
            if any(read.signal is signal for read in loss.loss.reads_teacher):
                raise SignalError(
                    f"loss '{loss.name}' reads the {SIGNAL_NAMES[signal]} of teacher '{teacher.entry.name}', which "
                    f"with masked = {teacher.entry.masked:g} has them for some of its patches only; set masked to 0, "
                    "or choose a loss that reads logits or the embedding"
                )


def _check_teacher(teacher: DescribedTeacher) -> None:
    request = replace(teacher.request, weights="none")
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        reason = why_not_droppable(build_model(teacher.plugin, request).network)
    if reason is not None:
        raise SignalError(
            f"patches of teacher '{teacher.entry.name}' cannot be masked, because {reason}; set masked to 0, or choose "
            "another teacher"
        )


def _check_student(teacher: DescribedTeacher, student: ModelSpec) -> None:
    if Signal.CLS_ATTENTION in student.signals:
        return
    reason = student.silent.get(Signal.CLS_ATTENTION, f"it is {KINDS[student.kind]}")
    raise SignalError(
        f"masked = {teacher.entry.masked:g} of teacher '{teacher.entry.name}' keeps the patches with most of the "
        f"student's CLS attention, and student '{student.name}' does not reveal it because {reason}; choose another "
        "student, or set masked to 0"
    )
