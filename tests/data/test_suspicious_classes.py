"""Warnings about class folders, shown before training starts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit.data.splits import open_datasets
from distillkit.data.suspicious_classes import (
    class_warnings,
    fewer_than_a_batch,
    left_out_files,
    near_duplicates,
    unlabelled_next_to_classes,
    unread_folders,
)
from distillkit.errors import DataError
from distillkit.planning.make_plan import make_plan
from distillkit.recipe.image_tables import Data
from distillkit.recipe.schema import Recipe
from distillkit_plugins.datasets.digits import Digits
from distillkit_plugins.datasets.folder import Folder


def test_a_sound_data_set_has_no_warnings(write_pictures, tmp_path):
    source = Folder(write_pictures(tmp_path, {"cat": 2, "dog": 2}))
    assert list(class_warnings(source)) == []
    assert unlabelled_next_to_classes(source) is None
    assert list(class_warnings(Digits.open(None, Data(), "train"))) == []


def test_empty_class_folders_are_named(write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 2, "dog": 2, "emu": 0, ".cache": 0})
    assert list(class_warnings(Folder(tmp_path))) == [f"1 class of '{tmp_path}' has no image: 'emu'"]
    write_pictures(tmp_path, dict.fromkeys("abcdef", 0))
    assert list(class_warnings(Folder(tmp_path))) == [
        f"7 classes of '{tmp_path}' have no image: 'a', 'b', 'c', 'd', 'e' and 2 more"
    ]


def test_a_named_class_without_an_image_counts_as_empty():
    class Named(Digits):
        class_names = (*Digits.class_names, "ten")

    assert list(class_warnings(Named.open(None, Data(), "test"))) == ["1 class of 'digits' has no image: 'ten'"]


def test_empty_folders_next_to_unlabelled_images_are_not_classes(write_pictures, tmp_path):
    assert list(class_warnings(Folder(write_pictures(tmp_path, {"": 2, "notes": 0})))) == []


def test_folders_next_to_the_splits_are_named(write_pictures, tmp_path, plugins):
    for name in ("train", "testing", "holdout", "more"):
        write_pictures(tmp_path / name, {"cat": 2, "dog": 2})
    data = Data(train=str(tmp_path), validation=0.0)
    note = f"2 folders next to '{tmp_path}/train' are not read: 'holdout', 'more'"
    assert unread_folders(Folder.open(str(tmp_path), data, "train")) == note
    assert note in open_datasets(data, plugins).notes
    assert unread_folders(Digits.open(None, data, "train")) is None


def test_files_that_are_not_images_are_counted(write_pictures, tmp_path, plugins):
    for name in ("train", "val", "more"):
        write_pictures(tmp_path / name, {"cat": 2, "dog": 2})
        (tmp_path / name / "cat" / "list.csv").write_text("")
    data = Data(train=str(tmp_path), unlabeled=str(tmp_path / "more"))
    notes = [note for note in open_datasets(data, plugins).notes if note.startswith("left out")]
    assert notes == [
        f"left out of '{tmp_path}/{name}': 1 file that is not an image (1 .csv)" for name in ("train", "more", "val")
    ]
    assert left_out_files(Digits.open(None, data, "train")) is None


def test_folders_that_are_not_classes_stop_a_run_but_not_unlabelled_images(write_pictures, tmp_path, plugins):
    write_pictures(tmp_path, {"a/cat": 2, "a/dog": 2, "b/cat": 2, "b/dog": 2})
    with pytest.raises(DataError, match=r"^data.train: every folder in '.*' \(a, b\) has no image, only folders \(cat"):
        open_datasets(Data(train=str(tmp_path)), plugins)
    assert len(open_datasets(Data(unlabeled=str(tmp_path)), plugins).train) == 8


def test_classes_that_differ_only_in_case_are_listed(write_pictures, tmp_path):
    source = Folder(write_pictures(tmp_path, {"Cat": 1, "cat": 1, "dog": 1}))
    assert list(class_warnings(source)) == [
        f"the classes 'Cat', 'cat' of '{tmp_path}' differ only in case; merge them if they are the same"
    ]


@given(st.lists(st.text(max_size=4), unique=True))
def test_near_duplicates_are_grouped_completely(names):
    groups = near_duplicates(names)
    grouped = [name for group in groups for name in group]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) <= set(names)
    for name in set(names) - set(grouped):
        assert not any(name.casefold() == other.casefold() for other in names if other != name)


def test_the_two_unicode_forms_of_an_accented_letter_are_near_duplicates():
    assert near_duplicates(["caf\u00e9", "cafe\u0301", "cafe"]) == (("caf\u00e9", "cafe\u0301"),)


def test_images_outside_the_class_folders_are_counted(write_pictures, tmp_path):
    source = Folder(write_pictures(tmp_path, {"cat": 2, "dog": 1, "": 1}))
    assert (
        unlabelled_next_to_classes(source) == f"1 image of '{tmp_path}' has no label: it is outside the class folders"
    )
    write_pictures(tmp_path, {"": 2}, start=9)
    assert unlabelled_next_to_classes(Folder(tmp_path)) == (
        f"3 images of '{tmp_path}' have no label: they are outside the class folders"
    )


def test_fewer_images_than_a_batch():
    assert fewer_than_a_batch(64, 64) is None
    assert fewer_than_a_batch(40, 64) == (
        "training.batch_size = 64 is more than the 40 training images, so every step uses all of them; "
        "lower it for more steps per epoch"
    )


def test_a_plan_has_the_warnings_as_notes(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 9, "dog": 9, "Dog": 9, "emu": 0})
    student = {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2}
    recipe = Recipe.model_validate({"data": {"train": str(tmp_path), "validation": 0}, "student": student})
    notes = make_plan(recipe, plugins).notes
    assert f"1 class of '{tmp_path}' has no image: 'emu'" in notes
    assert f"the classes 'Dog', 'dog' of '{tmp_path}' differ only in case; merge them if they are the same" in notes
    size = recipe.training.batch_size
    assert (
        f"training.batch_size = {size:,} is more than the 27 training images, so every step uses all of them; "
        "lower it for more steps per epoch"
    ) in notes


def test_a_single_class_is_refused(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 9, "emu": 0})
    with pytest.raises(DataError) as caught:
        open_datasets(Data(train=str(tmp_path)), plugins)
    assert str(caught.value) == (
        f"'{tmp_path}' has a single class, 'cat'; give every class a folder; to train on images without "
        "labels, use `distillkit run --unlabeled DIR`"
    )


def test_a_folder_that_cannot_be_listed_is_an_error(write_pictures, tmp_path, monkeypatch):
    """Skipping it would silently drop its images from the data."""
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
