"""Attention figures in the report of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from distillkit import DataError, RunInfo, RunModels, Samples
from distillkit.models import ClassMap, FrozenTeacher, TimmModel
from distillkit.pages import Page, PageBlock, as_markdown
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit.running.start import run
from distillkit_plugins.trackers.attention_section import attention_section

SMALL = {"image_size": (8, 8), "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
PLAN = {"class_names": ["cat", "dog"]}


@pytest.fixture(scope="module")
def vit() -> TimmModel:
    return TimmModel.create("deit_tiny_patch16_224", name="vit-ti", classes=2, **SMALL)


def models(student: TimmModel, teachers: dict[str, TimmModel], *, labels: tuple[int | None, ...] = (1,)) -> RunModels:
    images = torch.zeros(len(labels), 3, *student.spec.image_size)
    samples = Samples("train", tuple(f"{number}.png" for number in range(len(labels))), labels, images)
    frozen = {
        name: FrozenTeacher(teacher, student=student.spec, size="native", class_map=ClassMap())
        for name, teacher in teachers.items()
    }
    return RunModels(student, frozen, lambda count: samples)


def info(directory: Path) -> RunInfo:
    return RunInfo(directory, {}, PLAN, steps=1, steps_per_epoch=1)


def shown(blocks: list[PageBlock]) -> list[str]:
    return as_markdown(Page("title", tuple(blocks))).strip().split("\n\n")[1:]


def test_report_shows_the_attention_in_validation_images(tmp_path: Path) -> None:
    student = {"model": "vit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 2, "heads": 2}
    training = {"steps": 1, "batch_size": 8, "device": "cpu", "threads": 1}
    tables = {"data": {"train": "digits", "workers": 0}, "student": student, "training": training}
    recipe = {**tables, "augment": {"eval_crop": 1.0}, "evaluation": {"batch_size": 512}}
    run(Recipe.model_validate({**recipe, "trackers": []}), tmp_path / "teacher", installed_plugins())
    taught = {"teachers": [{"model": f"run:{tmp_path}/teacher", "name": "old"}], "losses": [{"loss": "advit-l1"}]}
    run(Recipe.model_validate(recipe | taught), tmp_path / "run", installed_plugins())
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    section = page.partition("## Attention\n\n")[2].partition("\n\n## Models")[0].split("\n\n")
    assert section[0] == (
        "Attention of the class token in 3 validation images, layer by layer: teacher old above, the student below."
    )
    assert len(section) == 4
    for number, link in enumerate(section[1:], start=1):
        title, _, path = link.removeprefix("![").removesuffix(")").partition("](")
        assert title.startswith("validation image ")
        assert path == f"attention/validation-{number}.png"
        with Image.open(tmp_path / "run" / path) as picture:
            assert picture.format == "PNG"
    assert (
        len({(tmp_path / "run" / "attention" / f"validation-{number}.png").read_bytes() for number in (1, 2, 3)}) == 3
    )


def test_student_without_teacher_and_images_with_and_without_label(vit: TimmModel, tmp_path: Path) -> None:
    assert shown(attention_section(info(tmp_path), models(vit, {}, labels=(1, None)))) == [
        "Attention of the class token in 2 training images, layer by layer.",
        "![training image 0.png, class dog](attention/train-1.png)",
        "![training image 1.png](attention/train-2.png)",
    ]


def test_a_teacher_without_attention_is_not_shown(vit: TimmModel, tmp_path: Path) -> None:
    cnn = TimmModel.create("resnet10t", name="cnn", classes=2)
    assert shown(attention_section(info(tmp_path), models(vit, {"big": cnn}))) == [
        "Attention of the class token in 1 training image, layer by layer.",
        "![training image 0.png, class dog](attention/train-1.png)",
        "Teacher 'big' is not shown, because it is a CNN and reveals no class-token attention.",
    ]


def test_a_student_without_attention_has_no_section(tmp_path: Path) -> None:
    cnn = TimmModel.create("resnet10t", name="cnn", classes=2)
    assert attention_section(info(tmp_path), RunModels(cnn, {}, None)) == []
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_drawing_does_not_fail_a_finished_run(vit: TimmModel, tmp_path: Path) -> None:
    def broken(count: int) -> Samples:
        raise DataError("image '1.png' of 'cats' cannot be read: truncated; repair or remove it")

    assert shown(attention_section(info(tmp_path), RunModels(vit, {}, broken))) == [
        "The attention could not be drawn: image '1.png' of 'cats' cannot be read: truncated; repair or remove it.",
    ]
