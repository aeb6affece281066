"""A loss that satisfies the contract; the bad losses of the tests each violate one requirement."""

from pydantic import BaseModel, Field
from torch import nn

from distillkit import Read, Signal, TargetSpec

LOGITS = frozenset({Read(Signal.LOGITS)})


class Sound(nn.Module):
    """The distance between the teacher's logits and a mixture of the student's."""

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        power: float = Field(2.0, gt=1)

    weight = 1.0
    label_weight = 1.0
    reads_teacher = LOGITS
    reads_student = LOGITS

    def __init__(self, options, classes):
        super().__init__()
        self.power = options.power
        self.mix = nn.Linear(classes, classes)
        self.targets = {"logits": TargetSpec((classes,), "float32")}

    @classmethod
    def build(cls, options, student, teacher):
        return cls(options, teacher.classes)

    def target(self, teacher):
        return {"logits": teacher.logits.detach().float()}

    def distance(self, student, target):
        return (self.mix(student.logits) - target["logits"]).abs().pow(self.power).mean(dim=1)

    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target)}
