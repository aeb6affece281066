"""Recipe schema: every key with its type, default and meaning.

A recipe is data, not code. Keys that a plugin owns (a student's `patch`, a loss's `tau`) are in the same table as the
rest of the entry; the plugin's `Options` check them, see `plugin.registry`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from distillkit.messages.validation import NAME_PATTERN

Share = Annotated[float, Field(ge=0, le=1)]
Interpolation = Literal["bicubic", "bilinear", "nearest"]
Orientation = Literal["exif", "stored"]
# Not strict, here and below: TOML has lists and no tuples.
FloatPair = Annotated[tuple[float, float], Field(strict=False)]


class Table(BaseModel):
    """A table of a recipe: frozen, strict, every number finite, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Entry(BaseModel):
    """A table that names a plugin; keys not listed here are options of that plugin."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to the plugin, unchecked."""
        return dict(self.model_extra or {})


class About(Table):
    """Source and cost of a named recipe."""

    summary: str = ""
    source: str = Field("", description="paper and table, or the benchmark that found the settings")
    cost: str = Field("", description="device, hours and images that the full recipe needs")
    needs_trained_student: bool = Field(
        False,
        description="for a student with trained weights; a random one gets a note in the plan",
        # recipe.toml of runs up to version 0.1.0 has the second name
        validation_alias=AliasChoices("needs_trained_student", "goes_on"),
    )
    notes: tuple[str, ...] = Field((), strict=False, description="notes for the plan and the report")


class Data(Table):
    """Training, validation and test images, and which labels are used."""

    train: str | None = Field(
        None,
        description="a folder, `digits`, or `timm:<data set>`; a folder with train/ provides its other splits too: "
        "val/ and test/, or similar names; "
        "default: digits, unless unlabeled is set",
    )
    validation: str | Share = Field(
        0.1, description="a folder or name, or the share of train to hold out; used to choose the best checkpoint"
    )
    test: str | None = Field(
        None, description="a folder or name, evaluated once at the end; default: test/ in train's folder, if it exists"
    )
    unlabeled: str | None = Field(None, description="a folder of unlabelled images; the teacher provides their targets")
    root: str | None = Field(None, description="the folder of `timm:` data sets")
    download: bool = Field(False, description="allow `timm:` data sets to download")
    labels: PositiveInt | None = Field(
        None, description="number of labels to keep, balanced over the classes; the other images become unlabelled"
    )
    labeled_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="labelled share of every batch; default: the labelled share of the data"
    )
    seed: int = Field(0, description="seed of order, augmentation, mixing, held-out images and kept labels")
    views: PositiveInt | None = Field(
        None, description="repeat the augmentations after this many epochs; default: never"
    )
    broken: Share = Field(
        0.1,
        description="limit on the share of unreadable images of a split; they are replaced in training, left out in "
        "evaluation, and counted; above it the run fails; 0: the first one is an error",
    )
    workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="number of loader processes; default: the number of cores, at most 8"
    )

    @field_validator("validation", mode="before")
    @classmethod
    def _share_or_name(cls, value: Any) -> Any:
        """One message instead of pydantic's two, one for the string and one for the number."""
        is_number = isinstance(value, float | int) and not isinstance(value, bool)
        if isinstance(value, str) or (is_number and 0 <= value <= 1):
            return value
        raise PydanticCustomError("share_or_name", "a share from 0 to 1, a folder, or the name of a data set")


class Augment(Table):
    """Augmentation of training images: a pure function of `data.seed`, view, sample and repeat."""

    crop: Literal["resized", "padded", "none"] = Field(
        "resized", description="random resized crop; padded random crop (small images); or resize and centre crop"
    )
    scale: FloatPair = Field((0.08, 1.0), description="range of the area of the resized crop")
    ratio: FloatPair = Field((3 / 4, 4 / 3), description="range of the aspect ratio of the resized crop")
    padding: PositiveInt = Field(4, description="pixels added on each side with crop = padded")
    flip: Share = Field(0.5, description="probability of a horizontal flip")
    auto: str = Field("", description="timm's auto-augment string, such as rand-m9-mstd0.5-inc1")
    color_jitter: Annotated[float, Field(ge=0)] = Field(
        0.0, description="strength of colour jitter; timm ignores it if `auto` is set"
    )
    erasing: Share = Field(0.0, description="probability of random erasing with per-pixel noise")
    interpolation: Interpolation = Field("bicubic", description="for training and evaluation")
    orientation: Orientation = Field(
        "exif",
        description="exif turns images as their EXIF orientation says, in training, evaluation and bundles; stored "
        "leaves the pixels as they are in the file, as do runs that were started before this key existed",
    )
    repeats: PositiveInt = Field(
        1, description="repeated augmentation: augmented versions of each image in the same epoch"
    )
    eval_crop: Annotated[float, Field(gt=0, le=1)] = Field(
        0.875, description="share of the resized image that the centre crop keeps"
    )


class Mixing(Table):
    """Mixup and cutmix."""

    mixup: Annotated[float, Field(ge=0)] = Field(0.0, description="alpha of the beta distribution; 0 is off")
    cutmix: Annotated[float, Field(ge=0)] = Field(0.0, description="alpha of the beta distribution; 0 is off")
    probability: Share = Field(1.0, description="probability that a pair is mixed")
    switch: Share = Field(0.5, description="probability of cutmix instead of mixup if both are on")
    mode: Literal["pair", "batch"] = Field(
        "pair", description="one draw per pair of neighbours, or one draw per batch as in DeiT's code"
    )


class Labels(Table):
    """The cross-entropy on the labels."""

    weight: Annotated[float, Field(ge=0)] | None = Field(
        None, description="weight of the label term; default: the one that the losses specify"
    )
    smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="label smoothing; never applied to a teacher's hard labels"
    )


class TeacherEntry(Entry):
    """A teacher: a plugin's name, its weights, and its image size."""

    model: str = Field(description="name of the teacher, such as regnety16gf, timm:<any>, run:<run directory>")
    name: str = Field("", description="the name by which losses refer to it; default: the model's name")
    weights: str | None = Field(
        None, description="a .safetensors or weights-only .pth file; default: the published weights"
    )
    classes: str | None = Field(
        None, description="a text file with one class name per line, in the order of the teacher's outputs"
    )
    class_map: Literal["auto", "index"] = Field(
        "auto", description="match classes by name if names are known, or always by index"
    )
    size: Literal["auto", "student", "native"] | PositiveInt = Field(
        "auto", description="image size of the teacher: the student's, its native one, or a number of pixels"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto is bf16 on a GPU that supports it, else fp32; in bf16 and fp16 its matrices are stored in "
        "that precision, in half the memory, with the same outputs as autocast",
    )
    sharded: bool = Field(
        False, description="shard its weights between the processes (FSDP2) instead of a full copy in each"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_by_model(cls, value: Any) -> Any:
        return _named(value, "model")


class StudentEntry(Entry):
    """The student: a plugin's name, its weights, and the plugin's own options (patch, width, depth, ...)."""

    model: str = Field("deit-ti", description="name of the student, such as deit-ti, vit-s, timm:<any classifier>")
    weights: str | None = Field(None, description="a file, a run directory, or `pretrained`; default: random")


class LossEntry(Entry):
    """A loss: a plugin's name, its teacher and weight, and the plugin's own options (tau, reduction, ...)."""

    loss: str = Field(description="name of the loss, such as hard, soft")
    name: str = Field("", pattern=NAME_PATTERN, description="the name of its terms; default: the loss's name")
    teacher: str | None = Field(None, description="name of the teacher it reads; default: the only one")
    weight: Annotated[float, Field(ge=0)] | None = Field(None, description="weight of its terms; default: the paper's")

    @model_validator(mode="before")
    @classmethod
    def _name_by_loss(cls, value: Any) -> Any:
        return _named(value, "loss")


def _named(entry: Any, plugin: str) -> Any:
    """An entry of a list, with the name of its plugin as the default of `name`."""
    name = isinstance(entry, dict) and (entry.get("name") or entry.get(plugin))
    return {**entry, "name": name} if name else entry


class Training(Table):
    """Length, batch size, precision, logging and checkpoints."""

    epochs: PositiveInt | None = Field(None, description="passes over the data; default: 20, unless steps is set")
    steps: PositiveInt | None = Field(None, description="optimiser steps, instead of epochs")
    batch_size: PositiveInt = Field(
        128, description="samples of one optimiser step, over all devices and micro-batches"
    )
    micro_batch_size: PositiveInt | None = Field(
        None, description="samples per forward pass on one device; gradients are accumulated"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto is bf16 on a GPU that supports it, else fp32"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    clip: Annotated[float, Field(gt=0)] | None = Field(None, description="maximum gradient norm")
    compile: bool = Field(False, description="torch.compile for student and teacher")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay of an exponential moving average (EMA) of the student, which is evaluated as well"
    )
    threads: PositiveInt | None = Field(None, description="CPU threads; default: torch's choice")
    log_every: PositiveInt = Field(
        50,
        description="optimiser steps between two log lines; the first step is always logged. Only a logged step waits "
        "for the device; with several loss terms it needs one more backward per term, to measure its gradient",
    )
    evaluate_every: PositiveInt = Field(1, description="epochs between two evaluations")
    checkpoint_every: PositiveInt | None = Field(
        None, description="optimiser steps between two checkpoints, in addition to the one after each epoch"
    )
    patience: Annotated[float, Field(gt=0)] = Field(
        30.0, description="minutes that a process waits for another one before the run is ended"
    )
    keep: PositiveInt = Field(2, description="number of latest checkpoints to keep, besides the best student")
    max_skipped: PositiveInt = Field(
        20, description="maximum of consecutive steps skipped for a non-finite loss or gradient before the run stops"
    )

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give training.epochs or training.steps, not both")
        return self


class Optimizer(Table):
    """timm's optimisers by name."""

    name: str = Field(
        "adamw", description="a name of timm.optim; all except adam, adamw and sgd wait for the device in every step"
    )
    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="learning rate, at a batch size of `lr_base_batch`")
    lr_base_batch: PositiveInt | None = Field(
        None, description="scale lr by batch_size divided by this; default: no scaling"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.05, description="not applied to biases, norms, tokens and position embeddings"
    )
    betas: FloatPair | None = Field(None, description="for the Adam family; default: the optimiser's")
    eps: Annotated[float, Field(gt=0)] | None = Field(None, description="default: the optimiser's")
    momentum: Share | None = Field(None, description="for SGD; default: 0.9")


class Schedule(Table):
    """timm's learning-rate schedules by name, counted in optimiser steps."""

    name: Literal["cosine", "constant"] = Field("cosine", description="schedule after the warm-up")
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(0.0, description="length of the linear warm-up")
    warmup_lr: Annotated[float, Field(ge=0)] = Field(1e-6, description="learning rate at the start of the warm-up")
    min_lr: Annotated[float, Field(ge=0)] = Field(1e-5, description="learning rate at the end of the cosine")


class Evaluation(Table):
    """Which head's predictions are evaluated."""

    head: Literal["fused", "class", "distill"] = Field(
        "fused", description="head that makes the predictions; no effect for a student with one head"
    )
    fusion: Literal["logits", "softmax"] = Field(
        "logits", description="mean of the logits, as in DeiT's code, or sum of the softmaxes, as in the paper"
    )
    batch_size: PositiveInt = Field(256, description="images per batch")


class Recipe(Table):
    """A complete recipe."""

    about: About = About()
    seed: int = Field(0, description="seed of initialisation, dropout and drop path; for the data see data.seed")
    data: Data = Data()
    augment: Augment = Augment()
    mixing: Mixing = Mixing()
    labels: Labels = Labels()
    teachers: tuple[TeacherEntry, ...] = Field((), strict=False, description="one table each")
    student: StudentEntry = StudentEntry()
    losses: tuple[LossEntry, ...] = Field(
        (), strict=False, description="one table each; without any, the loss is the cross-entropy on the labels"
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
                raise ValueError(f"{what} need unique names; set `name` for one of those named '{twice.pop()}'")
        for loss in self.losses:
            if loss.teacher is not None and loss.teacher not in teachers:
                raise ValueError(
                    f"loss '{loss.name}' names teacher '{loss.teacher}'; "
                    f"the recipe has: {', '.join(teachers) or 'none'}"
                )
            if loss.teacher is None and len(teachers) > 1:
                raise ValueError(
                    f"loss '{loss.name}' must name its teacher (`teacher = ...`), one of: {', '.join(teachers)}"
                )
        return self

    def teacher_of(self, loss: LossEntry) -> TeacherEntry | None:
        """The teacher that a loss reads, or None if the recipe has no teacher."""
        if loss.teacher is None:
            return self.teachers[0] if self.teachers else None
        return next(teacher for teacher in self.teachers if teacher.name == loss.teacher)
