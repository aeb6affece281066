"""Describe the models of a recipe and agree on the classes they speak of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from distillkit.contracts.model import ModelRequest, ModelSpec, Read, Signal
from distillkit.contracts.signal_matching import demand
from distillkit.data.splits import DataSets
from distillkit.errors import ClassSpaceError, DataError
from distillkit.models.build import build_model, describe_model
from distillkit.models.class_matching import ClassMap, match_classes, read_class_names
from distillkit.models.initial_weights import PUBLISHED
from distillkit.models.teacher_size import spec_at, teacher_size
from distillkit.models.weight_loading import load_notes
from distillkit.planning.plan import LossPlan, TeacherPlan
from distillkit.plugin.plugin import Plugin
from distillkit.recipe.schema import LossEntry, Recipe, StudentEntry, TeacherEntry


@dataclass(frozen=True)
class ClassSpace:
    """The classes that labels and logits speak of, and whose they are; 0 where neither labels nor logits teach."""

    classes: int
    names: tuple[str, ...] | None
    source: str


@dataclass(frozen=True)
class DescribedTeacher:
    """A teacher described by its plugin (`native`), and as the losses see it (`spec`).

    `class_map` is set once the classes are known, `sees` once the student is.
    """

    plugin: Plugin
    entry: TeacherEntry
    request: ModelRequest
    native: ModelSpec
    spec: ModelSpec
    class_map: ClassMap
    sees: tuple[int, int]

    def in_space(self, space: ClassSpace, *, mapped: bool) -> DescribedTeacher:
        """The teacher answering in `space`; one whose logits nobody reads (`mapped` false) stays as it is.

        Raises: ClassSpaceError where it cannot.
        """
        if not mapped:
            return self
        class_map = match_classes(self.native, space.names, space.classes, mode=self.entry.class_map, data=space.source)
        return replace(self, spec=class_map.apply(self.spec), class_map=class_map)

    def facing(self, student: ModelSpec) -> DescribedTeacher:
        """The teacher at the size at which it will see the student's images; its grids may change."""
        sees = teacher_size(self.native, student, self.entry.size)
        return replace(self, spec=self.class_map.apply(spec_at(self.native, sees)), sees=sees)

    def plan(self, losses: Mapping[str, LossPlan]) -> TeacherPlan:
        """What this teacher must reveal to the losses that listen to it."""
        reads: set[Read] = set()
        for loss in losses.values():
            if loss.teacher == self.entry.name:
                reads |= loss.loss.reads_teacher
        return TeacherPlan(
            plugin=self.plugin,
            entry=self.entry,
            request=self.request,
            native=self.native,
            spec=self.spec,
            class_map=self.class_map,
            wanted=demand(reads, self.spec),
            sees=self.sees,
        )


def place_in_space(teacher: DescribedTeacher, space: ClassSpace, *, mapped: bool) -> DescribedTeacher:
    """`teacher.in_space`, whose refusal also says where the weights are missing, so that both are known at once."""
    try:
        return teacher.in_space(space, mapped=mapped)
    except ClassSpaceError as error:
        why_unavailable = getattr(teacher.plugin.load(), "why_unavailable", None)
        reason = why_unavailable(teacher.request) if why_unavailable else None
        if reason is None:
            raise
        raise ClassSpaceError(f"{error}; besides, {reason}: give --teacher-weights FILE") from None


def describe_teacher(plugin: Plugin, entry: TeacherEntry) -> DescribedTeacher:
    """Describe a teacher without its weights.

    Raises: ClassSpaceError where `classes` lists another number of names than the teacher has outputs.
    """
    request = ModelRequest(plugin.name, plugin.argument, plugin.options(entry.options), weights=entry.weights)
    spec = describe_model(plugin, request)
    if entry.classes:
        names = read_class_names(Path(entry.classes))
        if len(names) != spec.classes:
            raise ClassSpaceError(
                f"{entry.classes} lists {len(names)} classes and teacher '{entry.name}' has {spec.classes} outputs; "
                "list one class a line, in the order of the outputs"
            )
        spec = replace(spec, class_names=names)
    return DescribedTeacher(plugin, entry, request, spec, spec, ClassMap(), spec.image_size)


def describe_student(plugin: Plugin, entry: StudentEntry, space: ClassSpace) -> tuple[ModelRequest, ModelSpec]:
    """Describe the student in the class space of the run."""
    request = ModelRequest(
        plugin.name,
        plugin.argument,
        plugin.options(entry.options),
        weights=entry.weights,
        classes=space.classes,
        class_names=space.names,
    )
    spec = describe_model(plugin, request)
    return request, replace(spec, class_names=space.names)


def starting_notes(plugin: Plugin, request: ModelRequest) -> tuple[str, ...]:
    """What becomes of the weights that a student starts from, by their shapes; published ones are left to the run.

    Raises: WeightsError, RunDirectoryError for weights that cannot be read or do not fit.
    """
    if request.weights in (None, "none", PUBLISHED):
        return ()
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model = build_model(plugin, request)
    return load_notes(model)


def teachers_of_logits(recipe: Recipe, losses: Iterable[LossEntry], plugins: Mapping[str, Plugin]) -> set[str]:
    """The teachers whose logits some loss may read; only these must speak of the data's classes."""
    names: set[str] = set()
    for entry in losses:
        teacher = recipe.teacher_of(entry)
        if teacher is not None and Signal.LOGITS in plugins[entry.name].spec.signals:
            names.add(teacher.name)
    return names


def shared_classes(datasets: DataSets, teachers: Mapping[str, ModelSpec], *, reads_features: bool) -> ClassSpace:
    """The classes of the data or, where nothing is labelled, of the teachers whose logits are read.

    Where `reads_features` says that some loss reads a teacher, and none reads logits, there are no classes: the student
    then has no class head.
    Raises: DataError where nothing teaches; ClassSpaceError where two teachers differ and no data decides.
    """
    if datasets.classes is not None:
        return ClassSpace(datasets.classes, datasets.class_names, datasets.train.name)
    if not teachers and reads_features:
        return ClassSpace(0, None, datasets.train.name)
    if not teachers:
        raise DataError(
            "no image has a label and no loss reads a teacher's logits, so the student has no classes; "
            "give --teacher and --loss, or labels"
        )
    name, spec = next(iter(teachers.items()))
    different = next((other for other, its in teachers.items() if its.classes != spec.classes), None)
    if different is not None:
        raise ClassSpaceError(
            f"no image has a label, and teachers '{name}' and '{different}' know different numbers of classes "
            f"({spec.classes} and {teachers[different].classes}); use one of them"
        )
    return ClassSpace(spec.classes, spec.class_names, f"teacher '{name}'")
