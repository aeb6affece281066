"""Checks that the targets of a loss can be stored in a target bank and read by a later run."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from distillkit.bank.row_format import RowFormat
from distillkit.testing.loss_case import LossCase, difference

STUDENT_GEOMETRY = frozenset({"kind", "layers", "heads", "grids", "prefix_tokens"})
ROUNDING = 0.02
"""Relative change of a term that storing its target as float16 may cause."""


def target_options(case: LossCase) -> Iterator[str]:
    """`target_options` names options of the loss."""
    named = getattr(case.loss, "target_options", None)
    if named is None:
        return
    if not isinstance(named, frozenset):
        yield f"'target_options' is {named!r}; the contract requires a frozenset of names of Options"
        return
    for name in sorted(named - type(case.options).model_fields.keys()):
        yield f"'target_options' names '{name}', which is no option"


def target_geometry(case: LossCase) -> Iterator[str]:
    """`target_geometry` names facts of a student."""
    named: object = getattr(case.loss, "target_geometry", frozenset[str]())
    if not isinstance(named, frozenset) or not named <= STUDENT_GEOMETRY:
        known = ", ".join(f"'{name}'" for name in sorted(STUDENT_GEOMETRY))
        yield f"'target_geometry' is {named!r}; the contract requires a frozenset of {known}"


def target_without_trained_parameters(case: LossCase) -> Iterator[str]:
    """The target does not depend on parameters that training changes: a stored target would be that of another step."""
    if not case.loss.targets:
        return
    loss = case.build()
    with torch.no_grad():
        before = loss.target(case.teacher())
        for _, parameter in loss.named_parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
        after = loss.target(case.teacher())
    for name in sorted(before.keys() & after.keys()):
        if difference(before[name], after[name]) is not None:
            yield (
                f"target '{name}' depends on a parameter of the loss that training changes; compute it in forward, or "
                "freeze the parameter"
            )


def stored_target(case: LossCase) -> Iterator[str]:
    """The terms of a target that was stored and read again are those of the target itself, up to its rounding."""
    targets = case.loss.targets
    if not targets:
        return
    target = dict(case.target())
    row_format = RowFormat.of(targets)
    with torch.no_grad():
        stored = row_format.decode(row_format.encode(target), torch.device(case.device))
        student, batch = case.student(), case.batch()
        torch.manual_seed(0)
        live = case.loss(student, target, batch)
        torch.manual_seed(0)
        read = case.loss(student, stored, batch)
    for name, term in live.items():
        change = (term - read[name]).abs() / term.abs().clamp(min=1e-3)  # [B] or []
        if bool((change > ROUNDING).any()):
            yield (
                f"term '{name}' changes by {100 * float(change.max()):.2g} % when its target is stored as float16 and "
                "read again; set exact = True in its TargetSpec"
            )
