"""One plugin of every kind, all of them sound until the variable STRANGER says "place=deed", for as many as it says."""

import os
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel
from torch import nn

from distillkit import ModelSpec, Outputs, PluginSpec, Read, Signal, TargetSpec
from distillkit.contracts.exporter import Artifact
from distillkit.contracts.runtime import Availability
from distillkit.errors import UserError
from distillkit.evaluation import Measurement

CALLS = Counter()
LATE = 5
"""The call at which "late" raises: well inside the run."""


class Abort(BaseException):
    """As a library has that wants nobody to catch it."""


class Mute(Exception):  # noqa: N818 - it says nothing
    """Cannot say what is wrong."""

    def __str__(self):
        raise self


class Shy(torch.autograd.Function):
    """Fails on the way back."""

    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        raise ValueError("no way back")


class Keep(Shy):
    """Keeps some of the gradient."""

    @staticmethod
    def backward(context, gradient):
        return gradient[:1, None]


class Talk(Shy):
    """Takes words for a gradient."""

    @staticmethod
    def backward(context, gradient):
        return "some"


ERRORS = {
    "abort": Abort("enough"),
    "mute": Mute(),
    "close": GeneratorExit(),
    "memory": MemoryError("no room"),
    "refuse": UserError("not with me"),
    "interrupt": KeyboardInterrupt(),
}


def meddle(place, value, *given):
    """`value`, or what the deed for this place makes of it; `given` are tensors to spoil."""
    CALLS[place] += 1
    deed = dict(each.split("=") for each in os.environ.get("STRANGER", "").split()).get(place)
    if deed is None:
        return value
    if deed == "raise" or (deed == "late" and CALLS[place] == LATE):
        raise ValueError("no idea\nat all")
    if deed == "exit":
        sys.exit(3)
    if deed in ERRORS:
        raise ERRORS[deed]
    if deed == "print":
        print("hello from a stranger")  # noqa: T201 - that is the deed
    if deed == "spoil":
        given[0].detach().add_(1.0)
    return DEEDS.get(deed, lambda same: same)(value)


def each(change):
    """Change the tensors inside what is returned."""

    def changed(value):
        if isinstance(value, Outputs):
            return Outputs(logits=change(value.logits))
        return {name: change(tensor) for name, tensor in value.items()}

    return changed


def measuring(**other):
    """Another measurement, whatever was found."""
    return lambda value: replace(value, **other)


DEEDS = {
    "none": lambda value: None,
    "list": lambda value: [value],
    "text": lambda value: "text",
    "number": lambda value: -7,
    "half": lambda value: 0.5,
    "key": lambda value: {"other": value["logits"]},
    "empty": lambda value: Outputs(),
    "nothing": lambda value: {},
    "nameless": lambda value: {"": value["square"]},
    "counted": lambda value: {7: value["square"]},
    "bell": lambda value: {"\a": value["square"]},
    "array": np.asarray,
    "shape": each(lambda tensor: tensor[..., None]),
    "mean": each(lambda tensor: tensor.mean()),
    "dtype": each(lambda tensor: tensor.double().to(torch.int32)),
    "bfloat": each(lambda tensor: tensor.bfloat16()),
    "device": each(lambda tensor: tensor.to("meta") if tensor.device.type == "cpu" else tensor),
    "item": each(lambda tensor: [1.0]),
    "detached": each(lambda tensor: tensor.detach()),
    "gradient": each(lambda tensor: tensor.clone().requires_grad_()),
    "words": measuring(figures={"top1": "half"}),
    "tensor": measuring(figures={"top1": torch.tensor(50.0)}),
    "nan": measuring(figures={"top1": float("nan")}),
    "other": measuring(figures={"entropy": 0.25}),
    "rows": measuring(rows=({"k": 1}, {"n": 1})),
    "table": measuring(rows=({"k": None},)),
    "set": measuring(settings={"k": {1}}),
    "shy": each(Shy.apply),
    "keep": each(Keep.apply),
    "talk": each(Talk.apply),
}


class Options(BaseModel, frozen=True, extra="forbid"):
    """Nothing to choose."""


class Loss(nn.Module):
    Options = meddle("loss.options", Options)
    weight = label_weight = 1.0
    reads_teacher = reads_student = frozenset({Read(Signal.LOGITS)})

    def __init__(self):
        super().__init__()
        self.targets = meddle("loss.targets", {"logits": TargetSpec((2,), "float32")})

    @classmethod
    def build(cls, options, student, teacher):
        return meddle("loss.build", cls())

    def target(self, teacher):
        return meddle("loss.target", {"logits": teacher.logits.clone()}, teacher.logits)

    def forward(self, student, target, batch):
        squares = (student.logits - target["logits"]).square().mean(dim=1)
        return meddle("loss.forward", {"square": squares}, student.logits)


class Model(nn.Module):
    Options = Options
    role = "teacher"

    def __init__(self, classes):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
        self.spec = self.describe_with(classes)

    @classmethod
    def describe_with(cls, classes):
        return ModelSpec(
            name="stranger",
            architecture="stranger",
            kind="other",
            classes=classes,
            signals=frozenset({Signal.LOGITS}),
            image_size=(8, 8),
            head_modules=("1",),
        )

    @classmethod
    def describe(cls, request):
        return meddle(f"{cls.role}.describe", cls.describe_with(request.classes or 2))

    @classmethod
    def build(cls, request):
        return meddle(f"{cls.role}.build", cls(request.classes or 2))

    def forward(self, images, wanted):
        return meddle(f"{self.role}.forward", Outputs(logits=self.network(images)), images)


class Teacher(Model):
    pass


class Student(Model):
    role = "student"


class Pictures:
    """Forty grey squares, the bright ones of another class."""

    name = "squares"

    def __init__(self):
        self.class_names = meddle("data.class_names", ("dark", "bright"))

    @classmethod
    def open(cls, argument, data, split):
        return meddle("data.open", cls()) if split != "validation" else None

    def __len__(self):
        return meddle("data.len", 40)

    def key(self, index):
        return meddle("data.key", f"square-{index}")

    def label(self, index):
        return meddle("data.label", index % 2)

    def image(self, index):
        return meddle("data.image", Image.new("RGB", (8, 8), (100 * (index % 2) + index,) * 3))


class Tracker:
    def __init__(self):
        meddle("tracker.init", None)

    def distillkit_run_started(self, run):
        meddle("run_started", None)

    def distillkit_steps_logged(self, record):
        meddle("steps_logged", None)

    def distillkit_epoch_ended(self, record):
        meddle("epoch_ended", None)

    def distillkit_run_ended(self, record, models):
        meddle("run_ended", None)

    def distillkit_run_failed(self, error):
        meddle("run_failed", None)


class Evaluator:
    Options = Options
    learns = False

    def __init__(self, options):
        meddle("evaluator.init", None)

    def measure(self, subject):
        return meddle("evaluator.measure", Measurement("looked at", {"top1": 50.0}))


class Exporter:
    Options = Options
    precisions = ("fp32",)
    runtime = "none"

    def __init__(self, options):
        meddle("exporter.init", None)

    def check(self):
        meddle("exporter.check", None)

    def write(self, source, directory, precision):
        (directory / "model.stranger").write_bytes(b"model")
        return meddle("exporter.write", Artifact("stranger", "model.stranger"))

    def precision_of(self, file):
        return "fp32"

    def open(self, file):
        return meddle("exporter.open", lambda images: np.zeros((len(images), 2), np.float32))


class Runtime:
    formats = ("stranger",)

    def availability(self):
        return meddle("runtime.availability", Availability(works=False, detail="never"))

    def settings(self):
        return [{}]


def distillkit_losses():
    return meddle("losses", [spec("loss", "Loss", signals=frozenset({Signal.LOGITS}))])


def distillkit_teachers():
    return [spec("teacher", "Teacher", signals=frozenset({Signal.LOGITS}))]


def distillkit_students():
    return [spec("student", "Student", signals=frozenset({Signal.LOGITS}))]


def distillkit_datasets():
    return [spec("data set", "Pictures")]


def distillkit_trackers():
    return [spec("tracker", "Tracker")]


def distillkit_evaluators():
    return [spec("evaluator", "Evaluator")]


def distillkit_exporters():
    return [spec("exporter", "Exporter")]


def distillkit_runtimes():
    return [spec("runtime", "Runtime")]


def spec(what, factory, **more):
    return PluginSpec(name="stranger", summary=f"an awkward {what}", factory=f"contract_stranger:{factory}", **more)


meddle("import", None)
