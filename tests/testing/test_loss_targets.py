"""Bad targets of a loss, one per requirement, and the complete finding for each."""

import torch
from sound_loss import Sound

from distillkit import TargetSpec
from distillkit.testing import PAIRS

FIRST_PAIR = PAIRS[:1]


class OtherNames(Sound):
    def target(self, teacher):
        return {**super().target(teacher), "class": teacher.logits.argmax(dim=1)}


class OtherShape(Sound):
    def __init__(self, options, classes):
        super().__init__(options, classes)
        self.targets = {"logits": TargetSpec((classes, 1), "int64")}


class KeepsTheGraph(Sound):
    def target(self, teacher):
        return {"logits": 2 * teacher.logits.float()}


class ChangesTheTeacher(Sound):
    def target(self, teacher):
        teacher.logits.detach().clamp_(max=1)
        return super().target(teacher)


class FollowsTheTeachersPrecision(Sound):
    def target(self, teacher):
        return {"logits": teacher.logits.detach() @ torch.eye(teacher.logits.shape[1], dtype=teacher.logits.dtype)}


class CentresTheBatch(Sound):
    def target(self, teacher):
        return {"logits": teacher.logits.detach().float() - teacher.logits.detach().float().mean(dim=0)}


class CountsPositions(Sound):
    def target(self, teacher):
        logits = teacher.logits.detach().float()
        return {"logits": logits + (torch.arange(len(logits)) if len(logits) > 1 else logits.new_zeros(1))[:, None]}


class Counts(Sound):
    calls = 0.0

    def target(self, teacher):
        self.calls += 1.0
        return {"logits": teacher.logits.detach().float() + self.calls}


def test_a_target_matches_its_description(findings):
    assert findings(OtherNames) == ["target returns 'class', 'logits'; targets describes 'logits'"]
    assert findings(OtherShape)[:2] == [
        "target 'logits' has dtype float32; targets says int64",
        "target 'logits' has shape [6, 7]; targets says [6, 7, 1]",
    ]


def test_a_target_is_detached_from_the_teacher(findings):
    assert findings(KeepsTheGraph) == ["target 'logits' carries a gradient to the teacher; detach it"]


def test_a_target_does_not_change_the_teacher(findings):
    assert findings(ChangesTheTeacher) == ["target changes the teacher's logits in place; other losses read it too"]


def test_a_target_has_its_dtype_whatever_the_precision(findings):
    assert findings(FollowsTheTeachersPrecision) == [
        "target 'logits' of a float64 teacher has dtype float64; targets says float32",
        "target 'logits' under autocast has dtype bfloat16; targets says float32",
    ]


def test_a_target_does_not_depend_on_the_batch(findings):
    sentence = findings(CentresTheBatch)[0]
    assert sentence.startswith("target 'logits' of an image alone differs by ")
    assert sentence.endswith(" from that of the same image in a batch; it must not depend on the other images")
    assert (
        "target 'logits' of an image alone differs by 5 from that of the same image in a batch; "
        in (findings(CountsPositions)[0])
    )


def test_a_target_is_the_same_every_time(findings):
    assert "target 'logits' differs between calls on the same outputs" in findings(Counts)
