"""What is odd about class folders is a sentence before anything is learnt from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit.data.splits import open_datasets
from distillkit.data.suspicious_classes import (
    alike,
    class_oddities,
    fewer_than_a_batch,
    unlabelled_beside_classes,
)
from distillkit.errors import DataError
from distillkit.planning.make_plan import make_plan
from distillkit.recipe.schema import Data, Recipe
from distillkit_plugins.datasets.digits import Digits
from distillkit_plugins.datasets.folder import Folder


def test_a_sound_data_set_has_nothing_odd(write_pictures, tmp_path):
    source = Folder(write_pictures(tmp_path, {"cat": 2, "dog": 2}))
    assert list(class_oddities(source)) == []
    assert unlabelled_beside_classes(source) is None
    assert list(class_oddities(Digits.open(None, Data(), "train"))) == []


def test_empty_class_folders_are_named(write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 2, "dog": 2, "emu": 0, ".cache": 0})
    assert list(class_oddities(Folder(tmp_path))) == [f"1 class of '{tmp_path}' has no image: 'emu'"]
    write_pictures(tmp_path, dict.fromkeys("abcdef", 0))
    assert list(class_oddities(Folder(tmp_path))) == [
        f"7 classes of '{tmp_path}' have no image: 'a', 'b', 'c', 'd', 'e' and 2 more"
    ]


def test_a_named_class_without_an_image_counts_as_empty():
    class Named(Digits):
        class_names = (*Digits.class_names, "ten")

    assert list(class_oddities(Named.open(None, Data(), "test"))) == ["1 class of 'digits' has no image: 'ten'"]


def test_folders_beside_pictures_without_labels_are_no_classes(write_pictures, tmp_path):
    assert list(class_oddities(Folder(write_pictures(tmp_path, {"": 2, "notes": 0})))) == []


def test_classes_that_differ_in_case_alone_are_named(write_pictures, tmp_path):
    source = Folder(write_pictures(tmp_path, {"Cat": 1, "cat": 1, "dog": 1}))
    assert list(class_oddities(source)) == [
        f"the classes 'Cat', 'cat' of '{tmp_path}' differ in case alone; are they one?"
    ]


@given(st.lists(st.text(max_size=4), unique=True))
def test_names_are_alike_in_whole_groups(names):
    groups = alike(names)
    grouped = [name for group in groups for name in group]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) <= set(names)
    for name in set(names) - set(grouped):
        assert not any(name.casefold() == other.casefold() for other in names if other != name)


def test_a_letter_with_an_accent_can_be_written_in_two_ways():
    assert alike(["caf\u00e9", "cafe\u0301", "cafe"]) == (("caf\u00e9", "cafe\u0301"),)


def test_pictures_beside_class_folders_are_counted(write_pictures, tmp_path):
    source = Folder(write_pictures(tmp_path, {"cat": 2, "dog": 1, "": 1}))
    assert (
        unlabelled_beside_classes(source) == f"1 image of '{tmp_path}' has no label: it lies beside the class folders"
    )
    write_pictures(tmp_path, {"": 2}, start=9)
    assert unlabelled_beside_classes(Folder(tmp_path)) == (
        f"3 images of '{tmp_path}' have no label: they lie beside the class folders"
    )


def test_fewer_images_than_a_batch():
    assert fewer_than_a_batch(64, 64) is None
    assert fewer_than_a_batch(40, 64) == (
        "training.batch_size = 64 is more than the 40 training images, so every step sees them all; "
        "lower it for more steps"
    )


def test_a_run_says_so_before_its_first_step(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 9, "dog": 9, "Dog": 9, "emu": 0})
    student = {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2}
    recipe = Recipe.model_validate({"data": {"train": str(tmp_path), "validation": 0}, "student": student})
    notes = make_plan(recipe, plugins).notes
    assert f"1 class of '{tmp_path}' has no image: 'emu'" in notes
    assert f"the classes 'Dog', 'dog' of '{tmp_path}' differ in case alone; are they one?" in notes
    size = recipe.training.batch_size
    assert (
        f"training.batch_size = {size:,} is more than the 27 training images, so every step sees them all; "
        "lower it for more steps"
    ) in notes


def test_one_class_is_refused_with_a_way_out(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 9, "emu": 0})
    with pytest.raises(DataError) as caught:
        open_datasets(Data(train=str(tmp_path)), plugins)
    assert str(caught.value) == (
        f"'{tmp_path}' has a single class, 'cat'; give every class a folder, or name pictures without labels in "
        "data.unlabeled"
    )


def test_a_folder_that_cannot_be_listed_is_not_passed_over(write_pictures, tmp_path, monkeypatch):
    """Its pictures would be missing from the data, and nobody would know."""
    import os

    write_pictures(tmp_path, {"cat": 1, "dog": 1})
    usual = os.scandir

    def scandir(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(DataError) as caught:
        Folder(tmp_path)
    assert str(caught.value) == f"folder '{tmp_path}/dog' cannot be listed: Permission denied"
