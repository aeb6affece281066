"""Accuracy per class, against ReaL labels, and on folders whose names are numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from distillkit.contracts.model import ModelSpec
from distillkit.data.splits import open_datasets
from distillkit.errors import ClassSpaceError, DataError
from distillkit.evaluation import Subject
from distillkit.evaluation.evaluate import evaluate
from distillkit.models.class_matching import imagenet_class_names
from distillkit.models.heads import Answer
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit_plugins.evaluators.real_labels import read_real_labels, real_accuracy
from distillkit_plugins.evaluators.top1 import per_class

PLUGINS = installed_plugins()


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """`folder("name", "cat/1.png", ...)` writes these images into a folder."""

    def write(name: str, *pictures: str) -> Path:
        for number, picture in enumerate(pictures):
            path = tmp_path / name / picture
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(path)
        return tmp_path / name

    return write


def test_per_class_by_hand() -> None:
    hits, labels = torch.tensor([True, False, True, False, False]), torch.tensor([0, 0, 2, 2, 2])
    assert per_class(hits, labels, ("cat", "dog", "eel")) == (
        {"class": "cat", "images": 2, "top1": 50.0},
        {"class": "eel", "images": 3, "top1": pytest.approx(100 / 3)},
    )
    assert per_class(hits, labels, None)[1]["class"] == "2"


# --- Fewer classes than the model knows


@pytest.fixture
def fixed(tmp_path: Path) -> Callable[..., str]:
    """`fixed(12, best=5, second=7)` writes weights of a network with 12 outputs that always ranks them so."""

    def write(classes: int, *, best: int, second: int) -> str:
        network = timm.create_model("test_vit", num_classes=classes)
        with torch.no_grad():
            network.head.weight.zero_()
            network.head.bias.zero_()
            network.head.bias[best], network.head.bias[second] = 2.0, 1.0
        torch.save(network.state_dict(), tmp_path / "fixed.pth")
        return str(tmp_path / "fixed.pth")

    return write


@pytest.mark.parametrize(
    ("restrict", "top1", "real", "among"),
    [
        (False, 0.0, 200 / 3, "among all 12 classes; the data has 3"),
        (True, 100 / 3, 100 / 3, "restricted to the 3 of 12 classes that the data has"),
    ],
)
def test_all_outputs_count_unless_restricted(
    folder: Callable[..., Path], fixed: Callable[..., str], restrict: bool, top1: float, real: float, among: str
) -> None:
    """The network answers 5, which no folder has, and 7 next. Restricted, the image of folder 7 becomes right."""
    root, weights = folder("val", "10/1.png", "2/2.png", "7/3.png"), fixed(12, best=5, second=7)
    labels = root.parent / "real.json"
    labels.write_text("[[5], [2, 5], [7]]", encoding="utf-8")
    options = {"real": str(labels), "per_class": True, **({"restrict": True} if restrict else {})}
    found = evaluate("timm:test_vit", PLUGINS, data=str(root), weights=weights, options=options).measurement
    assert found.title == f"accuracy of the model's predictions, {among}"
    assert found.figures["top1"] == pytest.approx(top1)
    assert found.figures["real_top1"] == pytest.approx(real)
    expected = {"head": "fused", "fusion": "logits", "restrict": restrict, "classes": 3 if restrict else 12}
    assert found.settings == expected | {"real": str(labels)}
    assert {row["class"]: row["top1"] for row in found.rows} == {"10": 0.0, "2": 0.0, "7": 3 * top1}
    assert ("top5" in found.figures) != restrict  # there is none of five outputs or fewer


def test_imagenet_folders_are_measured_among_1000_classes(
    folder: Callable[..., Path], fixed: Callable[..., str]
) -> None:
    """Folders by WordNet ID, of the outputs 1, 0 and 217."""
    root = folder("imagenette", "n01443537/a.png", "n01440764/b.png", "n02102040/c.png")
    weights = fixed(1000, best=1, second=217)
    found = evaluate("timm:test_vit", PLUGINS, data=str(root), weights=weights).measurement
    assert found.title == "accuracy of the model's predictions, among all 1,000 classes; the data has 3"
    assert found.figures["top1"] == pytest.approx(100 / 3)
    assert found.figures["top5"] == 100.0  # 1, 217 and the first of the others, 0


# --- ReaL


def opened(root: Path) -> object:
    return open_datasets(Recipe.model_validate({"data": {"train": str(root), "validation": 0}}).data, PLUGINS).train


def test_real_labels_are_matched_by_file_name(folder: Callable[..., Path], tmp_path: Path) -> None:
    """The images are in the order of folders: val_3, val_1, val_2."""
    images = opened(folder("val", "a/val_3.png", "b/val_1.png", "b/val_2.png"))
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[1], [], [0, 1]]), encoding="utf-8")
    acceptable = read_real_labels(path, images, 2)
    assert acceptable == [{0, 1}, {1}, set()]
    # The third image has no acceptable class and is left out; the second is wrong.
    assert real_accuracy([1, 0, 0], acceptable) == {"real_top1": 50.0, "real_images": 2.0}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "ReaL label file '{path}' does not exist; check --real"),
        ("[[1], 2]", "'{path}' is not a JSON list with one list of class numbers per image; see --real"),
        ("[[1]", "'{path}' is not a JSON list with one list of class numbers per image; see --real"),
        (
            "[[1]]",
            (
                "'{path}' has labels for 1 images and '{images}' has 2; give the complete validation set, or a file "
                "for these images"
            ),
        ),
        (
            "[[0], [2]]",
            (
                "'{path}' contains class 2, and the model has classes 0 to 1; ReaL labels are for ImageNet's "
                "classes, so use a model with these"
            ),
        ),
    ],
)
def test_real_labels_that_do_not_fit(
    folder: Callable[..., Path], tmp_path: Path, text: str | None, sentence: str
) -> None:
    root, path = folder("val", "a/1.png", "b/2.png"), tmp_path / "real.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_real_labels(path, opened(root), 2)
    assert str(error.value) == sentence.format(path=path, images=root)


def test_real_labels_are_outputs_not_folder_positions(folder: Callable[..., Path], tmp_path: Path) -> None:
    """Folders 10, 2 and 7 sort as text; the network always predicts its output 7, the third of them."""
    root, path, weights = folder("val", "10/1.png", "2/2.png", "7/3.png"), tmp_path / "real.json", tmp_path / "w.pth"
    network = timm.create_model("test_vit", num_classes=12)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.arange(12) == 7)
    torch.save(network.state_dict(), weights)
    options = {"real": str(path)}
    for listed, expected in (([[7], [7], [7]], 100.0), ([[2], [2], [2]], 0.0)):
        path.write_text(json.dumps(listed), encoding="utf-8")
        found = evaluate("timm:test_vit", PLUGINS, data=str(root), weights=str(weights), options=options)
        assert found.measurement.figures["real_top1"] == expected


def test_empty_real_labels() -> None:
    with pytest.raises(DataError) as error:
        real_accuracy([0], [frozenset()])
    assert str(error.value) == ("the ReaL labels of these images are all empty; check --real and --data")


# --- ImageNet-V2


def class_map(names: tuple[str, ...], *, classes: int, known: tuple[str, ...] | None, root: Path) -> object:
    """Outputs of a model that correspond to the folders of `root`."""
    datasets = open_datasets(Recipe.model_validate({"data": {"train": str(root), "validation": 0}}).data, PLUGINS)
    assert datasets.class_names == names
    spec = ModelSpec("m", "m", "other", classes, frozenset(), (8, 8), class_names=known)
    measured = datasets.train
    subject = Subject(
        "m", torch.nn.Identity(), spec, Answer(), Recipe(), datasets, "all", measured, torch.device("cpu")
    )
    return subject.class_map.indices


def test_folders_named_by_numbers_are_the_outputs_of_that_number(folder: Callable[..., Path]) -> None:
    """As text they sort 0, 1, 10, 2: the third folder is output 10."""
    root = folder("v2", "0/a.png", "1/a.png", "2/a.png", "10/a.png")
    names = ("0", "1", "10", "2")
    assert class_map(names, classes=1000, known=imagenet_class_names(), root=root) == (0, 1, 10, 2)
    assert class_map(names, classes=1000, known=None, root=root) == (0, 1, 10, 2)


def test_folders_named_by_numbers_may_be_class_names(folder: Callable[..., Path]) -> None:
    root = folder("own", "0/a.png", "1/a.png", "2/a.png", "10/a.png")
    names = ("0", "1", "10", "2")
    assert class_map(names, classes=4, known=names, root=root) is None


def test_a_folder_number_beyond_the_outputs(folder: Callable[..., Path]) -> None:
    root = folder("v2", "0/a.png", "1000/a.png")
    with pytest.raises(ClassSpaceError) as error:
        class_map(("0", "1000"), classes=1000, known=imagenet_class_names(), root=root)
    assert str(error.value) == (
        "'m' predicts 1,000 classes (n01440764, n01443537, n01484850, ...) and "
        f"'{root}' has 2 classes (0, 1000); give --data with classes that the model knows"
    )


def test_a_folder_without_splits_is_measured_completely(folder: Callable[..., Path], tmp_path: Path) -> None:
    """As ImageNet-V2 is published; ReaL labels and per-class rows then cover all images."""
    root = folder("v2", "0/b.png", "1/a.png", "10/c.png", "2/d.png")
    (tmp_path / "real.json").write_text("[[0], [], [10], [2]]", encoding="utf-8")
    options = {"per_class": True, "real": str(tmp_path / "real.json")}
    found = evaluate("timm:test_vit", PLUGINS, weights="none", data=str(root), options=options)
    assert (found.split, found.data) == ("all", str(root))
    assert found.measurement.title.endswith(", among all 1,000 classes; the data has 4")
    assert found.measurement.figures["images"] == 4.0
    assert found.measurement.figures["real_images"] == 3.0
    assert [row["class"] for row in found.measurement.rows] == ["0", "1", "10", "2"]
    shares = [row["top1"] for row in found.measurement.rows]
    assert np.mean(shares) == pytest.approx(found.measurement.figures["top1"])
