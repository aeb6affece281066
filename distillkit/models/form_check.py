"""Try forms of a frozen teacher: each is compared with the plain form in float32 on the same images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from distillkit.compute.compiler_cache import use_private_cache
from distillkit.contracts.model import Outputs, Wanted
from distillkit.contracts.teacher_form import PLAIN, TeacherForm
from distillkit.messages.text import first_line
from distillkit.models.form_agreement import disagreement
from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.models.teacher_form import PlainState

CHECKED = 16
"""Most images that are compared."""


@contextmanager
def _without_logs() -> Iterator[None]:
    """Hide warnings and tracebacks that torch logs while it compiles: the sentence on a form says what failed."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.ERROR))
    try:
        yield
    finally:
        logging.disable(before)


class FormCheck:
    """Gives a teacher one form after the other, and compares each with the plain form in float32.

    The teacher must be plain and in float32. A compiled form is compiled for batches of all `images`.
    Shapes: images [B, C, H, W], normalised for the student.
    """

    def __init__(self, teacher: FrozenTeacher, wanted: Wanted, images: Tensor) -> None:
        self.teacher = teacher
        self.wanted = wanted
        self.images = images
        self._plain = self._outputs(images[:CHECKED])
        self._state: PlainState | None = None

    @_without_logs()
    def take(self, form: TeacherForm, precision: torch.dtype) -> str | None:
        """Give the teacher a form; return why it cannot be used, as the end of a sentence, None if it can."""
        self.restore()
        self._state = PlainState(self.teacher.network, precision)
        if form.compiled:
            use_private_cache()
        try:
            self.teacher.take(form, precision, (len(self.images), self.wanted))
            self.run()  # what happens here at first is not part of a later measurement
            return disagreement(self._plain, self._outputs(self.seen), precision)
        # A compiler may fail in any way, and a kernel may not exist for a precision.
        except Exception as error:  # noqa: BLE001
            return f"fails ({first_line(error)})"

    def run(self) -> None:
        """One forward in the present form."""
        self._outputs(self.seen)

    @property
    def seen(self) -> Tensor:
        """The images of a forward: all of them in a compiled form, else at most CHECKED."""
        return self.images if self.teacher.form.compiled else self.images[:CHECKED]

    def restore(self) -> None:
        """Make the teacher plain and float32 again."""
        if self._state is not None:
            self._state.restore()
            self._state = None
            self.teacher.take(PLAIN, torch.float32)

    def accept(self) -> None:
        """Keep the present form, and drop the copy of the weights."""
        self._state = None

    def _outputs(self, images: Tensor) -> Outputs:
        outputs: Outputs = self.teacher(images, self.wanted)
        return outputs
