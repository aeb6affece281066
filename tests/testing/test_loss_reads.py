"""Losses that read what they did not declare: one finding each, and nothing about what follows from it."""

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


class LooksWhetherItIsThere(Sound):
    def forward(self, student, target, batch):
        logits = student.logits if student.distill_logits is None else student.distill_logits
        return {"distance": (self.mix(logits) - target["logits"]).abs().pow(self.power).mean(dim=1)}


class LooksAndFails(LooksWhetherItIsThere):
    def forward(self, student, target, batch):
        return {"distance": super().forward(student, target, batch)["distances"]}


class Declares(ReadsTheStudentsAttention):
    reads_student = frozenset({Read(Signal.LOGITS), Read(Signal.CLS_ATTENTION)})


TEACHERS = (
    "reads the teacher's CLS attention, which 'reads_teacher' leaves out, so that it gets none "
    "(AttributeError: 'NoneType' object has no attribute 'mean'); add Read(Signal.CLS_ATTENTION)"
)
STUDENTS = (
    "reads the student's CLS attention, which 'reads_student' leaves out, so that it gets none "
    "(AttributeError: 'NoneType' object has no attribute 'flatten'); add Read(Signal.CLS_ATTENTION)"
)


def test_attention_that_is_read_is_declared(findings):
    assert findings(ReadsTheTeachersAttention) == [TEACHERS]
    assert findings(ReadsTheStudentsAttention) == [STUDENTS]
    assert findings(ReadsBoth) == [TEACHERS, STUDENTS]


def test_so_are_the_tokens_of_layers(findings):
    assert findings(ReadsPatchTokens) == [
        (
            "reads the student's patch tokens, which 'reads_student' leaves out, so that it gets none "
            "(IndexError: tuple index out of range); add Read(Signal.PATCH_TOKENS)"
        )
    ]


def test_it_is_said_once_for_all_pairs_a_cnn_among_them():
    with pytest.raises(BrokenPluginError) as refusal:
        check_loss(ReadsTheTeachersAttention, backend=None)
    assert str(refusal.value) == (
        f"loss {__name__}.ReadsTheTeachersAttention breaks the contract in one way:\n  - {TEACHERS}"
    )


def test_a_loss_may_look_whether_a_signal_is_there():
    check_loss(LooksWhetherItIsThere, backend=None)


def test_another_mistake_is_not_taken_for_a_missing_signal(findings):
    assert all("leaves out" not in sentence for sentence in findings(LooksAndFails))


def test_what_is_declared_is_given():
    check_loss(Declares, backend=None)
