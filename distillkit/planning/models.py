"""Describe the models of a recipe and resolve the classes of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from distillkit.contracts.model import ModelRequest, ModelSpec, Read, Signal
from distillkit.contracts.signal_matching import wanted_signals
from distillkit.data.splits import DataSets
from distillkit.errors import ClassSpaceError, DataError, WeightsError
from distillkit.messages.text import counted
from distillkit.models.build import build_model, describe_model
from distillkit.models.class_matching import ClassMap, match_classes, read_class_names
from distillkit.models.initial_weights import PUBLISHED
from distillkit.models.teacher_size import sizes_to_compare, spec_at, teacher_size
from distillkit.models.weight_files import file_and_key, read_weights
from distillkit.models.weight_loading import load_notes
from distillkit.planning.plan import LossPlan, TeacherPlan
from distillkit.plugin.plugin import Plugin
from distillkit.recipe.schema import LossEntry, Recipe, StudentEntry, TeacherEntry


@dataclass(frozen=True)
class ClassSpace:
    """The classes of labels and logits, and their source for messages; 0 classes for training on features only."""

    classes: int
    names: tuple[str, ...] | None
    source: str


@dataclass(frozen=True)
class DescribedTeacher:
    """A teacher as its plugin describes it (`native`), and as the losses see it (`spec`).

    `class_map` is set once the classes are known, `input_size` once the student is known.
    """

    plugin: Plugin
    entry: TeacherEntry
    request: ModelRequest
    native: ModelSpec
    spec: ModelSpec
    class_map: ClassMap
    input_size: tuple[int, int]

    def in_space(self, space: ClassSpace, *, mapped: bool) -> DescribedTeacher:
        """The teacher with its logits mapped to the classes of the run; unchanged where no loss reads its logits.

        Raises: ClassSpaceError where the teacher lacks some of the classes.
        """
        if not mapped:
            return self
        class_map = match_classes(self.native, space.names, space.classes, mode=self.entry.class_map, data=space.source)
        return replace(self, spec=class_map.apply(self.spec), class_map=class_map)

    def sized_for(self, student: ModelSpec) -> DescribedTeacher:
        """The teacher at its input size for this student; its grids may change."""
        size = teacher_size(self.native, student, self.entry.size)
        return replace(self, spec=self.class_map.apply(spec_at(self.native, size)), input_size=size)

    def plan(self, losses: Mapping[str, LossPlan], student: ModelSpec) -> TeacherPlan:
        """The plan of this teacher, with the signals that its losses read."""
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
            wanted=wanted_signals(reads, self.spec),
            input_size=self.input_size,
            compared=sizes_to_compare(self.native, student, self.input_size),
        )


def check_default_data(recipe: Recipe, teachers: Iterable[DescribedTeacher]) -> None:
    """Refuse data that the run chose for a teacher without class names: equal numbers of classes would match by index.

    Raises: ClassSpaceError.
    """
    for teacher in teachers if recipe.about.data_reason else ():
        if teacher.native.class_names is None and teacher.plugin.spec.default_data is not None:
            raise ClassSpaceError(
                f"teacher '{teacher.entry.name}' has {counted(teacher.native.classes, 'class')} without names, which "
                f"cannot be matched with the default data, {recipe.data.train}; give --data"
            )


def map_to_classes(teacher: DescribedTeacher, space: ClassSpace, *, mapped: bool) -> DescribedTeacher:
    """`teacher.in_space`; its error also reports missing weights, so that the user sees both problems at once."""
    try:
        return teacher.in_space(space, mapped=mapped)
    except ClassSpaceError as error:
        why_unavailable = getattr(teacher.plugin.load(), "why_unavailable", None)
        reason = why_unavailable(teacher.request) if why_unavailable else None
        if reason is None:
            raise
        raise ClassSpaceError(f"{error}; also, {reason}: give --teacher-weights FILE") from None


def describe_teacher(plugin: Plugin, entry: TeacherEntry) -> DescribedTeacher:
    """Describe a teacher without loading its weights.

    Raises: ClassSpaceError where the number of names in `classes` is not the number of outputs.
    """
    weights = None if entry.only_in_bank else entry.weights
    request = ModelRequest(plugin.name, plugin.argument, plugin.options(entry.options), weights=weights)
    spec = describe_model(plugin, request)
    if entry.classes:
        names = read_class_names(Path(entry.classes))
        if len(names) != spec.classes:
            raise ClassSpaceError(
                f"{entry.classes} lists {len(names)} classes, but teacher '{entry.name}' has {spec.classes} outputs; "
                "list one class per line, in the order of the outputs"
            )
        spec = replace(spec, class_names=names)
    return DescribedTeacher(plugin, entry, request, spec, spec, ClassMap(), spec.image_size)


def describe_student(plugin: Plugin, entry: StudentEntry, space: ClassSpace) -> tuple[ModelRequest, ModelSpec]:
    """Describe the student with the classes of the run."""
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


def initial_weight_notes(plugin: Plugin, request: ModelRequest) -> tuple[str, ...]:
    """Notes on the student's initial weights: resized positions, new heads, tensors left out.

    Raises: WeightsError, RunDirectoryError for weights that cannot be read or do not fit.
    """
    # Published weights may have to be downloaded, which a plan does not do; the run adds their notes.
    if request.weights in (None, "none", PUBLISHED):
        return ()
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model = build_model(plugin, request)
    return load_notes(model)


def teacher_weight_notes(teachers: Iterable[TeacherEntry]) -> tuple[str, ...]:
    """Notes on random weights of teachers, and on weight files with several parts, such as an EMA: which is loaded."""
    notes: list[str] = []
    for entry in teachers:
        if entry.weights == "none":
            notes.append(f"teacher '{entry.name}' has random weights, the same in every run")
        elif entry.weights is not None and file_and_key(Path(entry.weights))[0].is_file():
            # Another plugin may have a format of its own, and refuses its files itself.
            with suppress(WeightsError):
                weights = read_weights(Path(entry.weights), shapes_only=True)
                notes += [f"teacher '{entry.name}': {note}" for note in weights.notes]
    return tuple(notes)


def classes_by_position(teachers: Iterable[DescribedTeacher], space: ClassSpace) -> tuple[str, ...]:
    """Notes on teachers without class names, whose outputs are matched with named classes in their order."""
    return tuple(
        f"teacher '{teacher.entry.name}' has no class names, so its {teacher.native.classes:,} outputs count as the "
        f"classes of the data in their order ({', '.join(space.names[:2])}, ...); give --set teacher.classes=FILE to "
        "match them by name"
        for teacher in teachers
        if space.names and teacher.native.class_names is None and teacher.entry.class_map == "auto"
    )


def logit_teachers(recipe: Recipe, losses: Iterable[LossEntry], plugins: Mapping[str, Plugin]) -> set[str]:
    """Names of the teachers whose logits some loss may read; only these need the classes of the data."""
    names: set[str] = set()
    for entry in losses:
        teacher = recipe.teacher_of(entry)
        if teacher is not None and Signal.LOGITS in plugins[entry.name].spec.signals:
            names.add(teacher.name)
    return names


def resolve_classes(datasets: DataSets, teachers: Mapping[str, ModelSpec], *, reads_features: bool) -> ClassSpace:
    """The classes of the run: those of the data or, without labels, those of the teachers whose logits are read.

    `reads_features` is true where some loss reads a teacher. If none reads logits, there are no classes and the student
    has no class head.
    Raises: DataError without labels and teachers; ClassSpaceError for teachers that differ, without labels to decide.
    """
    if datasets.classes is not None:
        return ClassSpace(datasets.classes, datasets.class_names, datasets.train.name)
    if not teachers and reads_features:
        return ClassSpace(0, None, datasets.train.name)
    if not teachers:
        raise DataError(
            "no image has a label and no loss reads a teacher's logits, so the student has no classes; give labels, or "
            "distil with `distillkit run --teacher NAME --loss NAME`"
        )
    name, spec = next(iter(teachers.items()))
    different = next((other for other, its in teachers.items() if its.classes != spec.classes), None)
    if different is not None:
        raise ClassSpaceError(
            f"no image has a label, and teachers '{name}' and '{different}' have different numbers of classes "
            f"({spec.classes} and {teachers[different].classes}); use only one of them"
        )
    return ClassSpace(spec.classes, spec.class_names, f"teacher '{name}'")
