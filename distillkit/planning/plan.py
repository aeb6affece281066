"""The plan of a run: the recipe with all names, models, classes and steps resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distillkit.contracts.loss import Loss
from distillkit.contracts.model import ModelRequest, ModelSpec, Signal, Wanted
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

    `input_size` is the (height, width) of the images that it sees.
    """

    plugin: Plugin
    entry: TeacherEntry
    request: ModelRequest
    native: ModelSpec
    spec: ModelSpec
    class_map: ClassMap
    wanted: Wanted
    input_size: tuple[int, int]


@dataclass(frozen=True)
class LossPlan:
    """A loss with its weight, built on the meta device; `plugin`, `options` and `teacher_spec` build the real one.

    `teacher_spec` is the teacher after the class map, or the student where the loss reads no teacher.
    """

    name: str
    plugin: Plugin
    options: Any
    loss: Loss
    teacher: str | None
    teacher_spec: ModelSpec
    weight: float


@dataclass(frozen=True)
class StudentPlan:
    """The student, the signals that it must reveal, its prediction head, and its untrained parameters.

    `untrained` names the parameters that no loss term reaches, `fixed` those that the student itself freezes.
    """

    plugin: Plugin
    request: ModelRequest
    spec: ModelSpec
    wanted: Wanted
    head: str
    untrained: tuple[str, ...]
    fixed: tuple[str, ...] = ()

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
class Plan:
    """The plan of a run. `label_weight` is 0 where no image is labelled."""

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
    def trains_on_labels(self) -> bool:
        """Whether the training loss has a label term."""
        return self.label_weight > 0
