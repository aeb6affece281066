"""Labelled images of a folder: which split, which images and which labels."""

import numpy as np
import pytest
from PIL import Image

from distillkit.contracts.exporter import ExportRequest
from distillkit.contracts.model import ModelSpec, Signal
from distillkit_export.bundle.manifest import describe
from distillkit_export.images.labelled_folder import labelled_images

SPEC = ModelSpec("sum", "sum", "other", 2, frozenset({Signal.LOGITS}), (4, 4))
CARD = describe(SPEC, ExportRequest()).input
CLASSES = ("bee", "ant")


def write_images(root, count):
    """`count` images per class, each of its own colour: 0 to `count` - 1 for ant, from 100 for bee."""
    for offset, name in ((0, "ant"), (100, "bee")):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (4, 4), offset + number).save(root / name / f"{number}.png")
    return root


def colours(images):
    """The grey level of each image, from its normalised pixels."""
    pixels = images.pixels[np.arange(len(images.pixels))]
    mean, std = (np.array(values)[:, None, None] for values in (CARD.mean, CARD.std))
    return np.rint(255 * (pixels * std + mean))[:, 0, 0, 0].astype(int).tolist()


def test_labels_are_indices_into_the_classes_of_the_bundle(tmp_path):
    images = labelled_images(write_images(tmp_path / "data", 2), CARD, CLASSES, None)
    assert images.labels.tolist() == [1, 1, 0, 0]
    assert colours(images) == [0, 1, 100, 101]


@pytest.mark.parametrize(("most", "expected"), [(1, [0]), (2, [0, 104]), (4, [0, 3, 101, 104]), (10, None), (99, None)])
def test_a_limit_takes_images_evenly_from_all_classes(tmp_path, most, expected):
    images = labelled_images(write_images(tmp_path / "data", 5), CARD, CLASSES, most)
    assert colours(images) == (expected or [0, 1, 2, 3, 4, 100, 101, 102, 103, 104])


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train", "validation", "val", "test"), "test"),
        (("train", "validation", "valid", "val"), "val"),
        (("train", "validation", "valid"), "valid"),
        (("train", "validation"), "validation"),
    ],
)
def test_test_images_are_preferred_to_validation_images(tmp_path, splits, expected):
    for number, name in enumerate(splits, start=1):
        write_images(tmp_path / "data" / name, number)
    images = labelled_images(tmp_path / "data", CARD, CLASSES, None)
    assert images.source == f"images in {expected}/"
    assert len(images.pixels) == 2 * (1 + splits.index(expected))


@pytest.mark.parametrize("name", ["test", "Testing", "VAL", "dev"])
def test_splits_are_found_in_any_case_and_under_similar_names(tmp_path, name):
    write_images(tmp_path / "train", 3)
    write_images(tmp_path / name, 1)
    found = labelled_images(tmp_path, CARD, CLASSES, None)
    assert (found.source, found.labels.tolist()) == (f"images in {name}/", [1, 0])


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    for name in ("test", "dev"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "0.png")
    assert labelled_images(tmp_path, CARD, ("test", "dev"), None).labels.tolist() == [1, 0]
