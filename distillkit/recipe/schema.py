"""The whole run as strict data: what a recipe file may say, its defaults, and what each key means.

A recipe is names and numbers, no code. Keys that a plugin owns (a student's `patch`, a loss's `tau`) stand in the same
table as the rest of the entry; they are checked by the plugin's own `Options`, see `plugin.registry`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

Share = Annotated[float, Field(ge=0, le=1)]
Interpolation = Literal["bicubic", "bilinear", "nearest"]


FloatPair = Annotated[tuple[float, float], Field(strict=False)]


class Table(BaseModel):
    """A table of a recipe: frozen, strict, every number finite, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Entry(BaseModel):
    """A table that names a plugin: keys that are not listed here are that plugin's options."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to the plugin, unchecked."""
        return dict(self.model_extra or {})


class About(Table):
    """Where a named recipe comes from and what it costs."""

    summary: str = ""
    source: str = Field("", description="paper and table, or the benchmark that found the settings")
    cost: str = Field("", description="device, hours and images that the full recipe takes")
    goes_on: bool = Field(False, description="made for a student that has learnt before; one that has not is noted")
    notes: tuple[str, ...] = Field((), strict=False, description="sentences for the plan and the report")


class Data(Table):
    """Which images, and which of their labels."""

    train: str | None = Field(
        None,
        description="a folder, `digits`, or `timm:<data set>`; a folder with train/ inside is split; "
        "digits where neither train nor unlabeled is given",
    )
    validation: str | Share = Field(
        0.1, description="a folder or name, or the share of train that is held out; the best checkpoint is chosen here"
    )
    test: str | None = Field(
        None, description="a folder or name, evaluated once at the end; found by itself where train's folder has test/"
    )
    unlabeled: str | None = Field(None, description="a folder of pictures without labels that the teacher comments on")
    root: str | None = Field(None, description="where `timm:` data sets lie")
    download: bool = Field(False, description="let `timm:` data sets download")
    labels: PositiveInt | None = Field(
        None, description="keep this many labels, balanced over the classes; the other images stay as unlabelled"
    )
    labeled_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="the labelled share of every batch; natural where not given"
    )
    seed: int = Field(0, description="decides order, crops, mixing, held-out images and kept labels")
    views: PositiveInt | None = Field(
        None, description="repeat the augmentations after this many epochs; never where not given"
    )
    broken: Share = Field(
        0.1,
        description="share of a set's images that may be unreadable: they are replaced in training, left out in "
        "evaluation, and counted; the run fails above it; 0 fails at the first one",
    )
    workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="loader processes; as many as there are cores, at most 8, where not given"
    )

    @field_validator("validation", mode="before")
    @classmethod
    def _share_or_name(cls, value: Any) -> Any:
        """Say in one sentence what pydantic says once for the text and once for the number."""
        is_number = isinstance(value, float | int) and not isinstance(value, bool)
        if isinstance(value, str) or (is_number and 0 <= value <= 1):
            return value
        raise PydanticCustomError("share_or_name", "a share from 0 to 1, a folder, or the name of a data set")


class Augment(Table):
    """What happens to a training image, a pure function of `data.seed`, view, sample and repeat."""

    crop: Literal["resized", "padded", "none"] = Field(
        "resized", description="random resized crop; pad and crop (small images); or only resize"
    )
    scale: FloatPair = Field((0.08, 1.0), description="area of the resized crop")
    ratio: FloatPair = Field((3 / 4, 4 / 3), description="aspect ratio of the resized crop")
    padding: PositiveInt = Field(4, description="pixels on each side, for crop = padded")
    flip: Share = Field(0.5, description="probability of a horizontal flip")
    auto: str = Field("", description="timm's auto-augment string, such as rand-m9-mstd0.5-inc1")
    color_jitter: Annotated[float, Field(ge=0)] = Field(0.0, description="ignored by timm where `auto` is set")
    erasing: Share = Field(0.0, description="probability of random erasing, per-pixel noise")
    interpolation: Interpolation = Field("bicubic", description="for training and evaluation")
    repeats: PositiveInt = Field(1, description="repeated augmentation: views of one image in the same epoch")
    eval_crop: Annotated[float, Field(gt=0, le=1)] = Field(
        0.875, description="share of the resized image that the centre crop keeps"
    )


class Mixing(Table):
    """Mixup and cutmix."""

    mixup: Annotated[float, Field(ge=0)] = Field(0.0, description="alpha of the beta distribution; 0 is off")
    cutmix: Annotated[float, Field(ge=0)] = Field(0.0, description="alpha of the beta distribution; 0 is off")
    probability: Share = Field(1.0, description="how often a pair is mixed")
    switch: Share = Field(0.5, description="how often cutmix is chosen where both are on")
    mode: Literal["pair", "batch"] = Field(
        "pair", description="one draw per pair of neighbours, or the authors' one draw per batch"
    )


class Labels(Table):
    """The cross-entropy on the labels."""

    weight: Annotated[float, Field(ge=0)] | None = Field(
        None, description="factor of the label term; what the losses agree on where not given"
    )
    smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="label smoothing; never applied to a teacher's labels"
    )


class TeacherEntry(Entry):
    """A teacher: a plugin's name, its weights, and how it sees the student's images."""

    model: str = Field(description="name of the teacher, such as regnety16gf, timm:<any>, run:<run directory>")
    name: str = Field("", description="how losses call it; the model's name where not given")
    weights: str | None = Field(
        None, description="a .safetensors or weights-only .pth file; the published weights where not given"
    )
    classes: str | None = Field(
        None, description="a text file of class names, one a line, in the order of the teacher's outputs"
    )
    class_map: Literal["auto", "index"] = Field(
        "auto", description="match classes by name where names are known, or always by position"
    )
    size: Literal["auto", "student", "native"] | PositiveInt = Field(
        "auto", description="pixels the teacher sees: the student's, its own, or a number"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto is bf16 on a GPU that has it and fp32 elsewhere; in bf16 and fp16 its matrices are kept so, "
        "in half the memory, with the answers of autocast",
    )
    sharded: bool = Field(
        False, description="of several processes each holds a part of its weights (FSDP2) instead of all"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_by_model(cls, value: Any) -> Any:
        return _named(value, "model")


class StudentEntry(Entry):
    """The student: a plugin's name, its weights, and the plugin's own options (patch, width, depth, ...)."""

    model: str = Field("deit-ti", description="name of the student, such as deit-ti, vit-s, timm:<any classifier>")
    weights: str | None = Field(None, description="a file, a run directory, or `pretrained`; random where not given")


class LossEntry(Entry):
    """A loss: a plugin's name, its teacher and weight, and the plugin's own options (tau, reduction, ...)."""

    loss: str = Field(description="name of the loss, such as hard, soft")
    name: str = Field(
        "", pattern=r"^[^/.\s]+$", description="how its terms are called; the loss's name where not given"
    )
    teacher: str | None = Field(None, description="name of the teacher it reads; the only one where not given")
    weight: Annotated[float, Field(ge=0)] | None = Field(
        None, description="factor of its terms; its paper's where not given"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_by_loss(cls, value: Any) -> Any:
        return _named(value, "loss")


def _named(entry: Any, plugin: str) -> Any:
    """An entry of a list with the name of its plugin as its own, where it has none; without either as it is."""
    name = isinstance(entry, dict) and (entry.get("name") or entry.get(plugin))
    return {**entry, "name": name} if name else entry


class Training(Table):
    """How long, how much at once, and with which arithmetic."""

    epochs: PositiveInt | None = Field(
        None, description="passes over the data; 20 where neither epochs nor steps is given"
    )
    steps: PositiveInt | None = Field(None, description="optimiser steps, instead of epochs")
    batch_size: PositiveInt = Field(
        128, description="samples of one optimiser step, over all devices and micro-batches"
    )
    micro_batch_size: PositiveInt | None = Field(
        None, description="samples that go through at once on one device; gradients are accumulated"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto is bf16 on a GPU that has it and fp32 elsewhere"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    clip: Annotated[float, Field(gt=0)] | None = Field(None, description="largest gradient norm")
    compile: bool = Field(False, description="torch.compile for student and teacher")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay of a moving average of the student, evaluated beside it"
    )
    threads: PositiveInt | None = Field(None, description="CPU threads; torch's choice where not given")
    log_every: PositiveInt = Field(
        50,
        description="optimiser steps between two log lines, beside the first step's; the loop waits for the device "
        "only there, and takes one more backward for each of several terms of the loss, to measure their gradients",
    )
    evaluate_every: PositiveInt = Field(1, description="epochs between two evaluations")
    checkpoint_every: PositiveInt | None = Field(
        None, description="optimiser steps between two checkpoints, beside the one at each epoch's end"
    )
    patience: Annotated[float, Field(gt=0)] = Field(
        30.0, description="minutes that one process of several waits for another before the run ends"
    )
    keep: PositiveInt = Field(2, description="latest checkpoints that are kept, beside the best")
    max_skipped: PositiveInt = Field(
        20, description="steps in a row that may be skipped because loss or gradient is not finite; then the run stops"
    )

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give training.epochs or training.steps, not both")
        return self


class Optimizer(Table):
    """timm's optimisers by name."""

    name: str = Field(
        "adamw", description="a name of timm.optim; all but adam, adamw and sgd wait for the device once a step"
    )
    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="learning rate at `lr_base_batch`")
    lr_base_batch: PositiveInt | None = Field(
        None, description="scale lr by batch_size divided by this; no scaling where not given"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.05, description="not applied to biases, norms, tokens and position embeddings"
    )
    betas: FloatPair | None = Field(None, description="of the Adam family; the optimiser's own where not given")
    eps: Annotated[float, Field(gt=0)] | None = Field(None, description="the optimiser's own where not given")
    momentum: Share | None = Field(None, description="of SGD; 0.9 where not given")


class Schedule(Table):
    """timm's learning-rate schedules by name, counted in optimiser steps."""

    name: Literal["cosine", "constant"] = Field("cosine", description="after the warm-up")
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(0.0, description="linear warm-up")
    warmup_lr: Annotated[float, Field(ge=0)] = Field(1e-6, description="where the warm-up starts")
    min_lr: Annotated[float, Field(ge=0)] = Field(1e-5, description="where the cosine ends")


class Evaluation(Table):
    """Which answer of the student counts as its answer."""

    head: Literal["fused", "class", "distill"] = Field(
        "fused", description="a student with one head answers with it in any case"
    )
    fusion: Literal["logits", "softmax"] = Field(
        "logits", description="mean of logits, as the authors' code, or sum of softmaxes, as the paper"
    )
    batch_size: PositiveInt = Field(256, description="images at once")


class Recipe(Table):
    """A run from end to end."""

    about: About = About()
    seed: int = Field(0, description="initialisation and the model's own noise; data.seed governs the data")
    data: Data = Data()
    augment: Augment = Augment()
    mixing: Mixing = Mixing()
    labels: Labels = Labels()
    teachers: tuple[TeacherEntry, ...] = Field((), strict=False, description="one table each")
    student: StudentEntry = StudentEntry()
    losses: tuple[LossEntry, ...] = Field(
        (), strict=False, description="one table each; none is the cross-entropy on the labels alone"
    )
    training: Training = Training()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    evaluation: Evaluation = Evaluation()
    trackers: tuple[str, ...] = Field(("metrics", "report"), strict=False, description="names of trackers")

    @model_validator(mode="after")
    def _names_fit(self) -> Recipe:
        teachers = [teacher.name for teacher in self.teachers]
        for what, names in (("teachers", teachers), ("losses", [loss.name for loss in self.losses])):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"{what} need unique names; give `name` to one of those called '{twice.pop()}'")
        for loss in self.losses:
            if loss.teacher is not None and loss.teacher not in teachers:
                raise ValueError(
                    f"loss '{loss.name}' names teacher '{loss.teacher}'; "
                    f"the recipe has: {', '.join(teachers) or 'none'}"
                )
            if loss.teacher is None and len(teachers) > 1:
                raise ValueError(
                    f"loss '{loss.name}' must say which teacher it reads (`teacher = ...`): {', '.join(teachers)}"
                )
        return self

    def teacher_of(self, loss: LossEntry) -> TeacherEntry | None:
        """The teacher that a loss reads, or None where the recipe has none."""
        if loss.teacher is None:
            return self.teachers[0] if self.teachers else None
        return next(teacher for teacher in self.teachers if teacher.name == loss.teacher)
