"""Classes of a run: from the labels, from the teachers, or none."""

from types import SimpleNamespace
from typing import Any

import pytest

from distillkit.contracts.model import ModelSpec, Signal
from distillkit.errors import ClassSpaceError, DataError
from distillkit.planning.models import ClassSpace, resolve_classes


def teacher(classes: int, *names: str) -> ModelSpec:
    spec = ModelSpec("t", "t", "other", classes, frozenset({Signal.LOGITS}), (4, 4))
    return ModelSpec(**{**vars(spec), "class_names": names or None})


def data(classes: int | None = None, names: tuple[str, ...] | None = None) -> Any:
    return SimpleNamespace(classes=classes, class_names=names, train=SimpleNamespace(name="flowers"))


def test_labels_decide_before_teachers() -> None:
    space = resolve_classes(data(2, ("ant", "bee")), {"a": teacher(5)}, reads_features=False)
    assert space == ClassSpace(2, ("ant", "bee"), "flowers")


def test_without_labels_the_teachers_decide() -> None:
    teachers = {"a": teacher(2, "ant", "bee"), "b": teacher(2, "ant", "bee")}
    assert resolve_classes(data(), teachers, reads_features=True) == ClassSpace(2, ("ant", "bee"), "teacher 'a'")


def test_teachers_of_different_class_numbers_are_an_error() -> None:
    with pytest.raises(ClassSpaceError) as refusal:
        resolve_classes(data(), {"a": teacher(2), "b": teacher(2), "c": teacher(3)}, reads_features=False)
    assert str(refusal.value) == (
        "no image has a label, and teachers 'a' and 'c' have different numbers of classes (2 and 3); use only one of "
        "them"
    )


def test_without_labels_and_logits_there_are_no_classes() -> None:
    assert resolve_classes(data(), {}, reads_features=True) == ClassSpace(0, None, "flowers")
    with pytest.raises(DataError, match=r"^no image has a label and no loss reads a teacher's logits"):
        resolve_classes(data(), {}, reads_features=False)
