"""Accuracy of the teachers on validation images, as they see them, before the first step of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from distillkit.compute.distributed import ALONE
from distillkit.contracts.model import Signal
from distillkit.messages.text import counted
from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.planning.plan import TeacherPlan
from distillkit.running.session import TrainingSession


@dataclass(frozen=True)
class TeacherAccuracy:
    """Top-1 of a teacher in percent, on `images` validation images seen at `size` (height, width).

    `constant_top1` is that of the most frequent class as the only answer, and `margin` the standard error of the
    difference to it. `other_sizes` has the top-1 at other sizes, by size as text.
    """

    size: tuple[int, int]
    images: int
    top1: float
    constant_top1: float
    margin: float
    other_sizes: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "size": list(self.size)}

    @property
    def better_size(self) -> str | None:
        """The best of the other sizes, if clearly better: by more than two standard errors."""
        best = max(self.other_sizes, key=self.other_sizes.__getitem__, default=None)
        if best is None:
            return None
        shares = (self.top1 / 100, self.other_sizes[best] / 100)
        error = 100 * math.sqrt(sum(share * (1 - share) for share in shares) / self.images)
        return best if self.other_sizes[best] - self.top1 > 2 * error else None

    @property
    def is_constant(self) -> bool:
        """Whether the teacher is no better than a constant answer, or by no more than one standard error."""
        return self.top1 - self.constant_top1 <= self.margin

    def warning(self, name: str, native: tuple[int, int], key: str = "teacher.size") -> str | None:
        """A sentence about a teacher that sees too little, None for a good one.

        `native` is its own size, `key` that of its size in the recipe.
        """
        better = self.better_size
        if better is None and not self.is_constant:
            return None
        on = counted(self.images, "validation image")
        sentence = f"teacher '{name}' is right on {self.top1:.1f} % of {on} seen at {_shown(self.size)}"
        if self.is_constant:
            sentence += f", no better than a constant answer ({self.constant_top1:.1f} %)"
        if better is None:
            return f"{sentence}; check its weights, and the order of its classes (teacher.classes, teacher.class_map)"
        own, setting = (", its own size", "native") if better == _shown(native) else (", the student's size", "student")
        return f"{sentence}, and on {self.other_sizes[better]:.1f} % at {better}{own}; set {key}={setting}"


def evaluate_teachers(session: TrainingSession) -> dict[str, TeacherAccuracy]:
    """Evaluate the teachers of which the plan says so. Collective: all processes must call it.

    Unreadable images are left out, and added to `session.broken`.
    """
    found = {}
    for name, teacher in session.teachers.items():
        planned = session.plan.teachers[name]
        accuracy = _evaluate(session, teacher, planned) if planned.evaluated else None
        if accuracy is not None:
            found[name] = accuracy
    return found


def with_accuracies(plan: Mapping[str, Any], accuracies: Mapping[str, Any]) -> dict[str, Any]:
    """The plan as plain data, with the accuracy of each evaluated teacher under `validation`."""
    teachers = [
        {**teacher, "validation": accuracies[teacher["recipe_name"]]}
        if teacher["recipe_name"] in accuracies
        else teacher
        for teacher in plan["teachers"]
    ]
    return {**plan, "teachers": teachers}


def _evaluate(session: TrainingSession, teacher: FrozenTeacher, planned: TeacherPlan) -> TeacherAccuracy | None:
    """The accuracy at every size of the plan, in one pass over the images; None where none can be read."""
    # The forward of a sharded teacher needs all processes equally often, so each of them sees all images.
    processes = ALONE if teacher.sharded or planned.evaluated < session.processes.world else session.processes
    validation = session.plan.datasets.validation
    assert validation is not None  # noqa: S101 - `images_to_evaluate` is 0 without
    data = session.evaluation_data(validation, "validation", limit=planned.evaluated)
    data = data.shard_images(processes.rank, processes.world)
    sizes, classes = planned.compared, session.plan.classes
    # Row 0 counts the images of each class, the others the right answers at each size.
    counts = torch.zeros(1 + len(sizes), classes, dtype=torch.int64)  # [1 + S, K]
    for images, labels in data:
        counts[0] += torch.bincount(labels, minlength=classes).cpu()
        for row, size in enumerate(sizes, start=1):
            counts[row] += torch.bincount(labels[_right(teacher, images, labels, size)], minlength=classes).cpu()
    return _accuracy(processes.count(counts), planned)


def _right(teacher: FrozenTeacher, images: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Whether each answer is right, [B]; images [B, C, H, W] normalised for the student, labels [B]."""
    with teacher.at_size(size):
        # Not `teacher(...)`: a compiled teacher would be compiled again for these batches.
        logits = teacher.forward(images, {Signal.LOGITS: ()}).logits
    assert logits is not None  # noqa: S101 - the plan evaluates teachers with logits only
    return logits.argmax(dim=-1) == labels


def _accuracy(counts: Tensor, planned: TeacherPlan) -> TeacherAccuracy | None:
    """The accuracy from counts [1 + S, K], see `_evaluate`."""
    images, right, *others = counts
    total = int(images.sum())
    if not total:
        return None
    constant = int(images.argmax())
    # Answers of which one is right: the teacher's on other classes, or the constant one's where the teacher errs.
    differing = int(right.sum() - right[constant] + images[constant] - right[constant])
    return TeacherAccuracy(
        planned.input_size,
        total,
        _percent(right.sum(), total),
        _percent(images[constant], total),
        100 * math.sqrt(differing) / total,
        {_shown(size): _percent(row.sum(), total) for size, row in zip(planned.compared[1:], others, strict=True)},
    )


def _percent(count: Tensor, total: int) -> float:
    return 100 * int(count) / total


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
