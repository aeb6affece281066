"""Our arms: the step of a run with the teacher, with a bank, and without a teacher; all train the same student."""

from __future__ import annotations

from collections.abc import Callable

from distillkit.benchmark.subject import BenchSubject
from distillkit.contracts.model import Signal
from distillkit.data.batches import Window
from distillkit.training.step import Stepper
from distillkit.training.task import DistillationTask, Objective
from distillkit.training.teacher_targets import TeacherTargets

Step = Callable[[Window], object]
"""One optimiser step of an arm."""


def bank(subject: BenchSubject) -> Step:
    """The step of a run whose bank has every target."""
    return subject.session.stepper.step


def live(subject: BenchSubject) -> Step:
    """The step of a run without a bank."""
    session, stepper = subject.session, subject.session.stepper
    targets = TeacherTargets(stepper.teacher_targets.teachers, stepper.teacher_targets.losses)
    return Stepper(session.task, targets, session.optimisation, stepper.objective, stepper.settings).step


def student(subject: BenchSubject) -> Step:
    """The step of a run on labels alone."""
    session, spec = subject.session, subject.plan.student.spec
    wanted = {Signal.LOGITS: ()}
    task = DistillationTask(
        session.task.student, {}, spec=spec, wanted=wanted, label_term=True, precision=session.precision
    ).train()
    objective, settings = Objective({}, label_weight=1.0), session.stepper.settings
    return Stepper(task, TeacherTargets({}, {}), session.optimisation, objective, settings).step
