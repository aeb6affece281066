"""Losses that read undeclared signals: one finding each, without findings that only follow from it."""

import pytest
from sound_loss import Sound

from distillkit import BrokenPluginError, Read, Signal
from distillkit.testing import check_loss


class ReadsTheTeachersAttention(Sound):
    def target(self, teacher):
        return {"logits": teacher.logits.float() + teacher.cls_attention.mean()}


class ReadsTheStudentsAttention(Sound):
    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target) + student.cls_attention.flatten(1).mean(dim=1)}


class ReadsBoth(ReadsTheTeachersAttention, ReadsTheStudentsAttention):
    pass


class ReadsPatchTokens(Sound):
    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target) + student.patch_tokens[-1].flatten(1).mean(dim=1)}


class OptionalSignal(Sound):
    def forward(self, student, target, batch):
        logits = student.logits if student.distill_logits is None else student.distill_logits
        return {"distance": (self.mix(logits) - target["logits"]).abs().pow(self.power).mean(dim=1)}


class OptionalSignalAndFails(OptionalSignal):
    def forward(self, student, target, batch):
        return {"distance": super().forward(student, target, batch)["distances"]}


class Declares(ReadsTheStudentsAttention):
    reads_student = frozenset({Read(Signal.LOGITS), Read(Signal.CLS_ATTENTION)})


TEACHERS = (
    "reads the teacher's CLS attention, which 'reads_teacher' does not declare "
    "(AttributeError: 'NoneType' object has no attribute 'mean'); add Read(Signal.CLS_ATTENTION)"
)
STUDENTS = (
    "reads the student's CLS attention, which 'reads_student' does not declare "
    "(AttributeError: 'NoneType' object has no attribute 'flatten'); add Read(Signal.CLS_ATTENTION)"
)


def test_attention_that_is_read_is_declared(findings):
    assert findings(ReadsTheTeachersAttention) == [TEACHERS]
    assert findings(ReadsTheStudentsAttention) == [STUDENTS]
    assert findings(ReadsBoth) == [TEACHERS, STUDENTS]


def test_patch_tokens_that_are_read_are_declared(findings):
    assert findings(ReadsPatchTokens) == [
        (
            "reads the student's patch tokens, which 'reads_student' does not declare "
            "(IndexError: tuple index out of range); add Read(Signal.PATCH_TOKENS)"
        )
    ]


def test_a_missing_declaration_is_reported_once_for_all_pairs():
    with pytest.raises(BrokenPluginError) as refusal:
        check_loss(ReadsTheTeachersAttention, backend=None)
    assert str(refusal.value) == (
        f"loss {__name__}.ReadsTheTeachersAttention breaks the contract in one way:\n  - {TEACHERS}"
    )


def test_a_loss_may_test_whether_a_signal_exists():
    check_loss(OptionalSignal, backend=None)


def test_another_error_is_not_reported_as_a_missing_declaration(findings):
    assert all("does not declare" not in sentence for sentence in findings(OptionalSignalAndFails))


def test_declared_signals_are_available():
    check_loss(Declares, backend=None)
