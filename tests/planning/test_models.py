"""Classes of a run: from the labels, from the teachers, or none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distillkit.contracts.model import ModelSpec, Signal
from distillkit.errors import ClassSpaceError, DataError
from distillkit.planning.models import ClassSpace, classes_by_position, resolve_classes, teacher_weight_notes
from distillkit.recipe.schema import TeacherEntry


def teacher(classes: int, *names: str) -> ModelSpec:
    spec = ModelSpec("t", "t", "other", classes, frozenset({Signal.LOGITS}), (4, 4))
    return ModelSpec(**{**vars(spec), "class_names": names or None})


def described(spec: ModelSpec, class_map: str = "auto") -> Any:
    return SimpleNamespace(native=spec, entry=TeacherEntry.model_validate({"model": "t", "class_map": class_map}))


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


def test_outputs_without_names_are_matched_in_order_with_a_note() -> None:
    space = ClassSpace(3, ("ant", "bee", "cat"), "folder")
    unnamed = described(teacher(3))
    assert classes_by_position([unnamed, described(teacher(3, "cat", "ant", "bee"))], space) == (
        (
            "teacher 't' has no class names, so its 3 outputs count as the classes of the data in their order (ant, "
            "bee, ...); give --set teacher.classes=FILE to match them by name"
        ),
    )
    assert classes_by_position([unnamed], ClassSpace(3, None, "folder")) == ()
    assert classes_by_position([described(teacher(3), "index")], space) == ()


def test_weight_file_of_a_teacher_with_an_ema_has_a_note(tmp_path: Path) -> None:
    path, weights = tmp_path / "w.pth", {"a.weight": torch.zeros(2, 2), "a.bias": torch.zeros(2)}
    entry = TeacherEntry(model="vit-b", weights=str(path))
    torch.save({"model": weights, "model_ema": {name: each + 1 for name, each in weights.items()}}, path)
    assert teacher_weight_notes([entry]) == (
        f"teacher 'vit-b': {path} has 'model_ema' besides 'model', which is loaded; {path}#model_ema loads the other",
    )
    others = [f"{path}#model_ema", "pretrained", str(tmp_path), None]
    assert teacher_weight_notes([TeacherEntry(model="vit-b", weights=other) for other in others]) == ()
    assert teacher_weight_notes([TeacherEntry(model="vit-b", weights="none")]) == (
        "teacher 'vit-b' has random weights, the same in every run",
    )
