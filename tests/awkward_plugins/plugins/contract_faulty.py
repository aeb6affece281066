"""One plugin of every kind, correct unless the environment variable FAULTS has entries "place=fault", with spaces."""

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
"""The call at which the fault "late" raises, in the middle of the run."""


class Abort(BaseException):
    """Not an Exception, so that `except Exception` does not catch it; some libraries have such errors."""


class Mute(Exception):  # noqa: N818 - the class name is part of the expected message
    """An error whose message cannot be read."""

    def __str__(self):
        raise self


class Shy(torch.autograd.Function):
    """Raises in its backward."""

    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        raise ValueError("no way back")


class Keep(Shy):
    """Returns a gradient of the wrong shape."""

    @staticmethod
    def backward(context, gradient):
        return gradient[:1, None]


class Talk(Shy):
    """Returns a string as its gradient."""

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


def inject(place, value, *given):
    """`value`, changed by the fault for this place, if any; `given` are input tensors, to change in place."""
    CALLS[place] += 1
    fault = dict(each.split("=") for each in os.environ.get("FAULTS", "").split()).get(place)
    if fault is None:
        return value
    if fault == "raise" or (fault == "late" and CALLS[place] == LATE):
        raise ValueError("no idea\nat all")
    if fault == "exit":
        sys.exit(3)
    if fault in ERRORS:
        raise ERRORS[fault]
    if fault == "print":
        print("hello from a plugin")  # noqa: T201 - printing is the fault
    if fault == "spoil":
        given[0].detach().add_(1.0)
    return CHANGES.get(fault, lambda same: same)(value)


def each(change):
    """Apply `change` to the tensors in a returned value."""

    def changed(value):
        if isinstance(value, Outputs):
            return Outputs(logits=change(value.logits))
        return {name: change(tensor) for name, tensor in value.items()}

    return changed


def measuring(**other):
    """Replace fields of the returned measurement."""
    return lambda value: replace(value, **other)


CHANGES = {
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
    """No options."""


class Loss(nn.Module):
    Options = inject("loss.options", Options)
    weight = label_weight = 1.0
    reads_teacher = reads_student = frozenset({Read(Signal.LOGITS)})

    def __init__(self):
        super().__init__()
        self.targets = inject("loss.targets", {"logits": TargetSpec((2,), "float32")})

    @classmethod
    def build(cls, options, student, teacher):
        return inject("loss.build", cls())

    def target(self, teacher):
        return inject("loss.target", {"logits": teacher.logits.clone()}, teacher.logits)

    def forward(self, student, target, batch):
        squares = (student.logits - target["logits"]).square().mean(dim=1)
        return inject("loss.forward", {"square": squares}, student.logits)


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
            name="faulty",
            architecture="faulty",
            kind="other",
            classes=classes,
            signals=frozenset({Signal.LOGITS}),
            image_size=(8, 8),
            head_modules=("1",),
        )

    @classmethod
    def describe(cls, request):
        return inject(f"{cls.role}.describe", cls.describe_with(request.classes or 2))

    @classmethod
    def build(cls, request):
        return inject(f"{cls.role}.build", cls(request.classes or 2))

    def forward(self, images, wanted):
        return inject(f"{self.role}.forward", Outputs(logits=self.network(images)), images)


class Teacher(Model):
    pass


class Student(Model):
    role = "student"


class Squares:
    """A data set of 40 grey squares in two classes, dark and bright."""

    name = "squares"

    def __init__(self):
        self.class_names = inject("data.class_names", ("dark", "bright"))

    @classmethod
    def open(cls, argument, data, split):
        return inject("data.open", cls()) if split != "validation" else None

    def __len__(self):
        return inject("data.len", 40)

    def key(self, index):
        return inject("data.key", f"square-{index}")

    def label(self, index):
        return inject("data.label", index % 2)

    def image(self, index):
        return inject("data.image", Image.new("RGB", (8, 8), (100 * (index % 2) + index,) * 3))


class Tracker:
    def __init__(self):
        inject("tracker.init", None)

    def distillkit_run_started(self, run):
        inject("run_started", None)

    def distillkit_steps_logged(self, record):
        inject("steps_logged", None)

    def distillkit_epoch_ended(self, record):
        inject("epoch_ended", None)

    def distillkit_run_ended(self, record, models):
        inject("run_ended", None)

    def distillkit_run_failed(self, error):
        inject("run_failed", None)


class Evaluator:
    Options = Options
    learns = False

    def __init__(self, options):
        inject("evaluator.init", None)

    def measure(self, subject):
        return inject("evaluator.measure", Measurement("looked at", {"top1": 50.0}))


class Exporter:
    Options = Options
    precisions = ("fp32",)
    runtime = "none"

    def __init__(self, options):
        inject("exporter.init", None)

    def check(self):
        inject("exporter.check", None)

    def write(self, source, directory, precision):
        (directory / "model.faulty").write_bytes(b"model")
        return inject("exporter.write", Artifact("faulty", "model.faulty"))

    def precision_of(self, file):
        return "fp32"

    def open(self, file):
        return inject("exporter.open", lambda images: np.zeros((len(images), 2), np.float32))


class Runtime:
    formats = ("faulty",)

    def availability(self):
        return inject("runtime.availability", Availability(works=False, detail="never"))

    def settings(self):
        return [{}]


def distillkit_losses():
    return inject("losses", [spec("loss", "Loss", signals=frozenset({Signal.LOGITS}))])


def distillkit_teachers():
    return [spec("teacher", "Teacher", signals=frozenset({Signal.LOGITS}))]


def distillkit_students():
    return [spec("student", "Student", signals=frozenset({Signal.LOGITS}))]


def distillkit_datasets():
    return [spec("data set", "Squares")]


def distillkit_trackers():
    return [spec("tracker", "Tracker")]


def distillkit_evaluators():
    return [spec("evaluator", "Evaluator")]


def distillkit_exporters():
    return [spec("exporter", "Exporter")]


def distillkit_runtimes():
    return [spec("runtime", "Runtime")]


def spec(what, factory, **more):
    return PluginSpec(name="faulty", summary=f"an awkward {what}", factory=f"contract_faulty:{factory}", **more)


inject("import", None)
