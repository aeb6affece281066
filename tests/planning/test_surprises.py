"""Notes where a plan may surprise; every remedy in them is tried."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distillkit.data.splits import open_datasets
from distillkit.planning.surprises import left_out_of_each_epoch
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.recipe.image_tables import Data
from distillkit.recipe.schema import Recipe
from distillkit.running.start import plan

PLUGINS = installed_plugins()
TINY = ["student.model=small-cnn", "student.width=4", "student.image_size=8", "training.device=cpu"]


def write(root: Path, counts: dict[str, int], side: int = 8) -> str:
    """Noise images of the given size in class folders."""
    draw = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return str(root)


def planned(data: str, *assignments: str, recipe: str | None = None, **options: Any) -> Any:
    return plan(load_recipe(recipe, data=data, assignments=assignments, **options), PLUGINS)


def notes(found: Any, word: str) -> list[str]:
    return [note for note in found.notes if word in note]


def typed(note: str) -> dict[str, Any]:
    """The options at the end of a note, as arguments of `load_recipe`."""
    words = shlex.split(note[note.index("--") :].partition(" leaves out")[0])
    pairs = list(zip(words[::2], words[1::2], strict=True))
    return {
        "assignments": [value for option, value in pairs if option == "--set"],
        "recipe": dict(pairs).get("--recipe"),
    }


def test_images_that_do_not_fill_a_step(tmp_path: Path) -> None:
    data = write(tmp_path, {"cat": 54, "dog": 54})
    settings = (*TINY, "training.batch_size=64", "data.validation=0")
    (note,) = notes(planned(data, *settings), "each epoch")
    assert note == (
        "each epoch leaves out 44 of 108 images, others each time, because it has 1 step of 64; "
        "--set training.batch_size=54 leaves out none"
    )
    better = planned(data, *settings, *typed(note)["assignments"])
    assert (better.steps_per_epoch, notes(better, "each epoch")) == (2, [])


@pytest.mark.parametrize(
    ("images", "batch", "expected"),
    [
        (100, 100, None),  # all of them
        (1000, 64, None),  # 40 of 1,000
        (64, 128, None),
        (199, 100, "99 of 199 images, others each time, because it has 1 step of 100; --set training.batch_size=99 "),
        (25, 10, "5 of 25 images, others each time, because it has 2 steps of 10; --set training.batch_size=8 "),
    ],
)
def test_known_numbers_of_images_left_out(images: int, batch: int, expected: str | None) -> None:
    samples = min(images, batch)
    found = list(left_out_of_each_epoch(images, samples=samples, steps=images // samples, recipe=Recipe()))
    if expected is None:
        assert found == []
    else:
        assert found == [f"each epoch leaves out {expected}leaves out 1"]


@pytest.mark.parametrize(
    ("images", "batch", "remedy"),
    [
        (14, 4, "; --set training.batch_size=2 leaves out none"),  # 3, one more step, leaves out 2 as well
        (126, 64, "; --set training.batch_size=63 leaves out none"),
        (3, 2, ""),  # only single images leave out fewer
    ],
)
def test_the_batch_size_of_the_note_leaves_out_fewer(images: int, batch: int, remedy: str) -> None:
    steps, left = divmod(images, batch)
    found = left_out_of_each_epoch(images, samples=batch, steps=steps, recipe=Recipe())
    words = f"{steps} step{'s' if steps > 1 else ''} of {batch}"
    assert list(found) == [
        f"each epoch leaves out {left} of {images} images, others each time, because it has {words}{remedy}"
    ]


@pytest.mark.parametrize(
    ("student", "remedy"), [("timm:resnet18", "; for their own size: --set student.image_size=32"), ("vit-ti", "")]
)
def test_small_images_without_labels_get_no_recipe_for_labels(tmp_path: Path, student: str, remedy: str) -> None:
    write(tmp_path, {"cat": 3, "dog": 3}, 32)
    recipe = load_recipe(
        unlabeled=str(tmp_path), student=student, loss="features", teacher="dinov2-vits14", teacher_weights="none"
    )
    (note,) = notes(plan(recipe, PLUGINS), "enlarged")
    words = "the images have about 32 px and are enlarged to 224, with 49 times as many pixels to compute"
    assert note == words + remedy


@pytest.mark.parametrize(
    ("side", "student", "expected"),
    [
        (32, 224, "49 times as many pixels to compute; for their own size: {small}"),
        (8, 224, "784 times as many pixels to compute; for their own size: {small} --set student.image_size=8"),
        (64, 224, "12 times as many pixels to compute; for their own size: {small} --set student.image_size=64"),
        (70, 224, "10 times as many pixels to compute; for their own size: --set student.image_size=80"),
        (96, 224, None),
        (8, 16, None),
    ],
)
def test_small_images_that_are_much_enlarged(tmp_path: Path, side: int, student: int, expected: str | None) -> None:
    data = write(tmp_path, {"cat": 3, "dog": 3}, side)
    (tmp_path / "cat" / "0.png").write_bytes(b"")
    size = [f"student.image_size={student}"] if student != 224 else []
    found = planned(data, "student.depth=1", *size, recipe="default")
    if expected is None:
        assert notes(found, "enlarged") == []
        return
    (note,) = notes(found, "enlarged")
    small = "--recipe cifar10-few-labels --set data.labels="
    assert note == f"the images have about {side} px and are enlarged to 224, with {expected.format(small=small)}"
    changed = typed(note)
    fitting = planned(data, *changed["assignments"], recipe=changed["recipe"])
    assert min(fitting.student.spec.image_size) < 2 * side
    assert (notes(fitting, "enlarged"), int(fitting.datasets.labelled.sum())) == ([], 5)


def test_trained_weights_expect_their_size(tmp_path: Path) -> None:
    data = write(tmp_path, {"cat": 3, "dog": 3})
    assert notes(planned(data, "student.weights=pretrained", recipe="default"), "enlarged") == []


def test_a_teacher_with_a_tenth_of_the_loss(teacher_run: str) -> None:
    settings = {"teacher": teacher_run, "loss": "soft"}
    (note,) = notes(planned("digits", *TINY, **settings), "the teacher has")
    assert note == (
        "the teacher has 0.1 of the loss and the labels 0.9; to give it more: "
        "--set loss.weight=0.9 --set labels.weight=0.1"
    )
    more = planned("digits", *TINY, *typed(note)["assignments"], **settings)
    assert (more.formula, notes(more, "the teacher has")) == ("0.1 * labels + 0.9 * soft", [])


def test_a_teacher_of_little_weight_among_several_losses(teacher_run: str) -> None:
    settings = {"teacher": teacher_run, "loss": ["ce", "soft:weight=0.05"]}
    (note,) = notes(planned("digits", *TINY, "labels.weight=1", **settings), "the teacher has")
    assert note.endswith("to give it more: --set losses.soft.weight=0.9 --set labels.weight=0.1")
    assert not notes(planned("digits", *TINY, *typed(note)["assignments"], **settings), "the teacher has")


def test_a_class_with_most_of_the_images(tmp_path: Path) -> None:
    data = write(tmp_path, {"cat": 17, "dog": 3, "emu": 0})
    sentence = (
        f"class 'cat' has 85 % of the labelled images of '{data}': top-1 says little about the others, which "
        "`distillkit evaluate --per-class` shows"
    )
    assert sentence in open_datasets(Data(train=data), PLUGINS).notes
    assert sentence not in open_datasets(Data(train=data, labels=4), PLUGINS).notes
    even = write(tmp_path / "even", {"cat": 16, "dog": 4})
    assert not [note for note in open_datasets(Data(train=even), PLUGINS).notes if "%" in note]
