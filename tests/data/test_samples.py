"""Sample images: which ones are chosen, and that they are transformed as in evaluation."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from distillkit.contracts.model import ModelSpec, Signal
from distillkit.data.evaluation import EvaluationData
from distillkit.data.samples import evaluation_samples
from distillkit.data.splits import open_datasets
from distillkit.errors import DataError
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.image_tables import Augment, Data

SPEC = ModelSpec("vit", "vit", "vit", 2, frozenset({Signal.LOGITS}), (8, 8))
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """Ten training images, five of each of two classes."""
    draw = np.random.default_rng(0)
    for index in range(10):
        (tmp_path / "ab"[index % 2]).mkdir(exist_ok=True)
        pixels = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "ab"[index % 2] / f"{index}.png")
    return tmp_path


def opened(folder, **more):
    return open_datasets(Data(train=str(folder), **more), installed_plugins())


def samples(datasets, count):
    return evaluation_samples(datasets, SPEC, Augment(), count=count, device=CPU)


def test_they_are_spread_over_the_validation_images_and_transformed_as_in_evaluation(folder):
    datasets = opened(folder, validation=0.4)
    found = samples(datasets, 2)
    (images, labels), *_ = EvaluationData(datasets.validation, SPEC, Augment(), batch_size=9, workers=0, device=CPU)
    assert (found.split, found.labels) == ("validation", tuple(labels[[1, 3]].tolist()))
    assert found.keys == tuple(datasets.validation.key(index) for index in (1, 3))
    assert torch.equal(found.images, images[[1, 3]])


def test_without_validation_images_they_are_test_or_training_images(folder):
    datasets = opened(folder, validation=0.0)
    assert samples(datasets, 1).split == "train"
    assert samples(dataclasses.replace(datasets, test=datasets.train), 1).split == "test"


def test_at_most_all_images_are_chosen_and_unlabelled_ones_have_no_label(folder):
    for picture in folder.rglob("*.png"):
        picture.rename(folder / picture.name)
    found = samples(opened(folder), 99)
    assert (len(found.keys), found.labels, tuple(found.images.shape)) == (10, (None,) * 10, (10, 3, 8, 8))


def test_unreadable_images_are_left_out(folder):
    (folder / "a" / "0.png").write_text("no picture", encoding="utf-8")
    found = samples(opened(folder, validation=0.0), 10)
    assert len(found.keys) == len(found.labels) == len(found.images) == 9
    assert "a/0.png" not in found.keys


def test_without_a_readable_image_the_last_error_is_raised(folder):
    for picture in folder.rglob("*.png"):
        picture.write_text("no picture", encoding="utf-8")
    with pytest.raises(DataError, match=r"^image 'b/9.png' of '.*' cannot be read: cannot identify image file "):
        samples(opened(folder, validation=0.0), 10)
