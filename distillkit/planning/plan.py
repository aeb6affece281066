"""The plan of a run: the recipe with all names, models, classes and steps resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.contracts.loss import Loss, target_buffers
from distillkit.contracts.model import ModelRequest, ModelSpec, Signal, Wanted
from distillkit.contracts.teacher_form import PLAIN, TeacherForm
from distillkit.models.heads import Answer, without_idle_heads
from distillkit.recipe.schema import Recipe, TeacherEntry

if TYPE_CHECKING:
    from distillkit.data.splits import DataSets
    from distillkit.models.class_matching import ClassMap
    from distillkit.planning.cost import Cost
    from distillkit.plugin.plugin import Plugin


@dataclass(frozen=True)
class TeacherPlan:
    """A teacher. `native` describes the model itself, `spec` its outputs as losses see them, after the class map.

    `input_size` is the (height, width) of the images that it sees. `evaluated` is the number of validation images on
    which it is evaluated before the first step, at each of the `compared` sizes, of which the first is `input_size`.
    `flops` are those of the forward of one image. `form` is how it computes, None if the run measures which is fastest.
    """

    plugin: Plugin
    entry: TeacherEntry
    request: ModelRequest
    native: ModelSpec
    spec: ModelSpec
    class_map: ClassMap
    wanted: Wanted
    input_size: tuple[int, int]
    compared: tuple[tuple[int, int], ...]
    evaluated: int = 0
    flops: int = 0
    form: TeacherForm | None = PLAIN


@dataclass(frozen=True)
class LossPlan:
    """A loss with its weight, built on the meta device; `plugin`, `options` and `teacher_spec` build the real one.

    `teacher_spec` is the teacher after the class map, or the student where the loss reads no teacher. `prepares` is the
    number of training images on which the loss is prepared before the first step.
    """

    name: str
    plugin: Plugin
    options: Any
    loss: Loss
    teacher: str | None
    teacher_spec: ModelSpec
    weight: float
    prepares: int = 0


@dataclass(frozen=True)
class StudentPlan:
    """The student, the signals that it must reveal, its prediction head, and its untrained parameters.

    `untrained` names the parameters that no loss term reaches, `fixed` those that the student itself freezes.
    `trains_on_one_image` is False if its batch normalisation, or that of a loss, fails on a micro-batch of one.
    """

    plugin: Plugin
    request: ModelRequest
    spec: ModelSpec
    wanted: Wanted
    head: str
    untrained: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    trains_on_one_image: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """The options of the student's plugin that the recipe sets."""
        options: dict[str, Any] = self.request.options.model_dump(mode="json", exclude_unset=True, by_alias=True)
        return options

    @property
    def idle_heads(self) -> tuple[str, ...]:
        """The heads ("class", "distill") that no loss term trains."""
        heads = zip(("class", "distill"), self.spec.head_modules, strict=False)
        return tuple(name for name, module in heads if f"{module}.weight" in self.untrained)

    @property
    def learns_classes(self) -> bool:
        """Whether some loss term trains a class head; accuracy is meaningless otherwise."""
        return Signal.LOGITS in without_idle_heads(self.spec, self.idle_heads).signals


@dataclass(frozen=True)
class ShelfPlan:
    """The shelf of a loss: bytes per row and in total for this run, and what the bank has for it so far.

    `exists` is whether the bank has a shelf that fits, as far as a plan knows. `differing` are the facts in which the
    nearest shelf differs, by name: its value and the one of this run.
    """

    row_bytes: int
    total_bytes: int
    exists: bool
    differing: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class BankPlan:
    """The bank of a run. `views` are the augmented views that the run shows, `images` how many images those show.

    `images_digest` is the digest of all training images that is part of the key of a shelf.
    """

    path: Path
    images_digest: str
    views: int
    images: int
    rows: int
    shelves: Mapping[str, ShelfPlan]

    @property
    def total_bytes(self) -> int:
        return sum(shelf.total_bytes for shelf in self.shelves.values())


@dataclass(frozen=True)
class Plan:
    """The plan of a run. `label_weight` is 0 where no image is labelled.

    `bytes_in_memory` is the estimated size of the decoded training images, None where the run does not keep them.
    """

    recipe: Recipe
    datasets: DataSets
    classes: int
    class_names: tuple[str, ...] | None
    student: StudentPlan
    teachers: Mapping[str, TeacherPlan]
    losses: Mapping[str, LossPlan]
    trackers: tuple[Plugin, ...]
    label_weight: float
    steps: int
    steps_per_epoch: int
    samples_per_step: int
    cost: Cost
    notes: tuple[str, ...]
    bank: BankPlan | None = None
    bytes_in_memory: int | None = None

    @property
    def answer(self) -> Answer:
        """Prediction head, fusion and idle heads of the student."""
        return Answer(self.student.head, self.recipe.evaluation.fusion, self.student.idle_heads)

    @property
    def starts_from(self) -> str | None:
        """The initial weights of the student: a file, a run, "pretrained"; None for random weights."""
        weights = self.recipe.student.weights
        return None if weights == "none" else weights

    @property
    def formula(self) -> str:
        """The loss as a sum: "0.5 * labels + 0.5 * hard"."""
        parts = [f"{self.label_weight:g} * labels"] if self.label_weight else []
        parts += [f"{loss.weight:g} * {name}" for name, loss in self.losses.items()]
        return " + ".join(parts)

    @property
    def prepares_targets(self) -> bool:
        """Whether the targets of a loss depend on what its `prepare` computes."""
        return any(loss.prepares and target_buffers(loss.loss) != frozenset() for loss in self.losses.values())

    @property
    def trains_on_labels(self) -> bool:
        """Whether the training loss has a label term."""
        return self.label_weight > 0
