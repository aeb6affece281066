"""Folders with val/ or test/ and no train/."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from distillkit.data.evaluation_root import evaluation_split, has_no_training_split
from distillkit.data.splits import open_datasets
from distillkit.errors import DataError
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.image_tables import Data


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / name)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("names", "split", "chosen"),
    [
        (("val/a/1.png", "val/b/1.png"), None, ("validation", "val")),
        (("val/a/1.png", "val/b/1.png"), "validation", ("validation", "val")),
        (("Eval/a/1.png", "test/b/1.png"), "validation", ("validation", "Eval")),
        (("Eval/a/1.png", "test/b/1.png"), None, ("test", "test")),
    ],
)
def test_the_split_of_a_root_without_training_images(folder, names, split, chosen):
    root = folder(*names)
    found = evaluation_split(str(root), split)
    assert (found.split, found.folder) == (chosen[0], root / chosen[1])
    assert evaluation_split(f"folder:{root}", split) == found


@pytest.mark.parametrize(
    "names",
    [
        ("train/a/1.png", "val/a/1.png"),  # a data set with training images
        ("val/1.png", "test/1.png"),  # classes that are called so
        ("val/a/1.png", "cat/1.png"),
    ],
)
def test_other_folders(folder, names):
    root = folder(*names)
    assert not has_no_training_split(root)
    assert evaluation_split(str(root), None) is None


def test_data_that_is_not_a_folder():
    assert evaluation_split("digits", None) is None


def test_a_split_that_is_missing(folder):
    root = folder("val/a/1.png", "val/b/1.png")
    with pytest.raises(DataError) as caught:
        evaluation_split(str(root), "test")
    assert str(caught.value) == f"'{root}' has no test images, only validation; give --split validation"


def test_a_run_validates_on_such_a_root_and_does_not_train_on_it(folder):
    root = folder("val/a/1.png", "val/b/1.png")
    data = Data(train=str(root / "val"), validation=str(root))
    assert open_datasets(data, installed_plugins()).validation.name == str(root / "val")
    with pytest.raises(DataError) as caught:
        open_datasets(Data(train=str(root)), installed_plugins())
    assert str(caught.value) == (
        f"data.train: the only folder in '{root}', 'val', has no image, only folders (a, b), so it is not a class; "
        f"give '{root / 'val'}'"
    )
