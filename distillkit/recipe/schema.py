"""Recipe schema: every key with its type, default and meaning; those of images are in `recipe.image_tables`.

A recipe is data, not code. Keys that a plugin owns (a student's `patch`, a loss's `tau`) are in the same table as the
rest of the entry; the plugin's `Options` check them, see `plugin.registry`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, PositiveInt, model_validator

from distillkit.contracts.teacher_form import FormText
from distillkit.messages.validation import NAME_PATTERN
from distillkit.recipe.image_tables import Augment, Data, Mixing
from distillkit.recipe.table import Entry, FloatPair, Share, Table

LABELS_ONLY = "ce"
"""The loss that stands for the label term, which is part of every run on labels."""


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
    data_reason: str = Field("", description="why the run trains on these images, where no data was named")


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
        None,
        description="a .safetensors or weights-only .pth file; `bank`: none, every target is read from the bank; "
        "default: the published weights",
    )
    classes: str | None = Field(
        None, description="a text file with one class name per line, in the order of the teacher's outputs"
    )
    class_map: Literal["auto", "index"] = Field(
        "auto", description="match classes by name if names are known, or always by index"
    )
    size: Literal["auto", "student", "native"] | PositiveInt = Field(
        "auto",
        description="size of the images that the teacher sees: its native one (`auto`), the student's, or a number of "
        "pixels",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto is bf16 on a GPU that supports it and, for a teacher of at least 1 GFLOP per image, on a CPU "
        "with bf16 instructions, else fp32; in bf16 and fp16 its matrices are stored in that precision, in half the "
        "memory, with the same outputs as autocast",
    )
    form: FormText = Field(
        "auto",
        description="how it computes: auto, a rule by machine, model and length of the run; measured, the fastest form "
        "that a short measurement at the start finds; plain; or parts joined by +: channels-last, written-attention, "
        "half-weights, compiled",
    )
    masked: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="share of its patches that a ViT does not see (MaskedKD): those with least of the student's CLS "
        "attention are left out; for losses that read logits or the embedding, without a bank",
    )
    sharded: bool = Field(
        False, description="shard its weights between the processes (FSDP2) instead of a full copy in each"
    )

    @property
    def only_in_bank(self) -> bool:
        """Whether no weights are loaded, because a bank has every target."""
        return self.weights == "bank"

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
    compile: bool = Field(
        False, description="torch.compile for the student, and for teachers with form = auto that are not sharded"
    )
    attention: Literal["auto", "fused", "written"] = Field(
        "auto",
        description="attention of a timm student: torch's fused function, or written out as products and a softmax; "
        "auto writes it out in bf16 on a CPU; `distillkit plan --time` measures both",
    )
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
    cosine_after_warmup: bool = Field(
        False,
        description="start the cosine at the peak after the warm-up, as in AttnDistill's code; otherwise the cosine "
        "spans all steps and the warm-up replaces its start, as in DeiT's",
    )
    min_lr: Annotated[float, Field(ge=0)] = Field(1e-5, description="learning rate at the end of the cosine")


class Evaluation(Table):
    """Which head's predictions are evaluated, and on how many images."""

    head: Literal["fused", "class", "distill"] = Field(
        "fused", description="head that makes the predictions; no effect for a student with one head"
    )
    fusion: Literal["logits", "softmax"] = Field(
        "logits", description="mean of the logits, as in DeiT's code, or sum of the softmaxes, as in the paper"
    )
    batch_size: PositiveInt = Field(256, description="images per batch")
    images: PositiveInt | None = Field(
        None, description="most images that a run evaluates of each split, evenly spaced; default: all. --smoke sets it"
    )


class Recipe(Table):
    """A complete recipe."""

    about: About = About()
    seed: int = Field(0, description="seed of initialisation, dropout and drop path; for the data see data.seed")
    bank: str | None = Field(
        None, description="folder of a target bank: the teacher's targets are read from it, and stored where missing"
    )
    bank_limit_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="size limit of the bank in GB; when it is reached, no more targets are stored"
    )
    data: Data = Data()
    augment: Augment = Augment()
    mixing: Mixing = Mixing()
    labels: Labels = Labels()
    teachers: tuple[TeacherEntry, ...] = Field((), strict=False, description="one table each")
    student: StudentEntry = StudentEntry()
    losses: tuple[LossEntry, ...] = Field(
        (), strict=False, description="one table each; without any, the loss is the cross-entropy on the labels"
    )
    loss_options: dict[str, dict[str, Any]] = Field(
        {}, description="a table per loss, by name: options of the losses that are given without them (`--loss soft`)"
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
            if loss.teacher is None and len(teachers) > 1 and loss.loss != LABELS_ONLY:
                raise ValueError(
                    f"loss '{loss.name}' must name its teacher (`teacher = ...`), one of: {', '.join(teachers)}"
                )
        return self

    @property
    def distilling_losses(self) -> tuple[LossEntry, ...]:
        """The losses without `ce`, which stands for the label term."""
        return tuple(loss for loss in self.losses if loss.loss != LABELS_ONLY)

    def teacher_of(self, loss: LossEntry) -> TeacherEntry | None:
        """The teacher that a loss reads, or None if the recipe has no teacher."""
        if loss.teacher is None:
            return self.teachers[0] if self.teachers else None
        return next(teacher for teacher in self.teachers if teacher.name == loss.teacher)
