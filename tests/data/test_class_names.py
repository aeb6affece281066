"""Classes of the splits by name: missing ones, other cases, unknown ones."""

from __future__ import annotations

import pytest

from distillkit.data.class_names import places_of
from distillkit.data.splits import open_datasets
from distillkit.errors import DataError
from distillkit.recipe.image_tables import Data


@pytest.fixture
def animals(write_pictures, tmp_path):
    """Training images of three classes; the test images are those of the argument."""

    def write(**test: int) -> str:
        write_pictures(tmp_path / "train", {"cat": 4, "dog": 4, "emu": 4})
        write_pictures(tmp_path / "test", test)
        return str(tmp_path)

    return write


def class_notes(found):
    return [note for note in found.notes if note.startswith("test: ") and " images of '" not in note]


@pytest.mark.parametrize("test", [{"cat": 1, "emu": 2}, {"cat": 1, "dog": 0, "emu": 2}], ids=["no folder", "empty"])
def test_a_class_without_test_images_is_noted(animals, plugins, tmp_path, test):
    found = open_datasets(Data(train=animals(**test), validation=0.0), plugins)
    assert class_notes(found) == [f"test: 1 of 3 classes has no image in '{tmp_path / 'test'}': 'dog'"]
    assert found.classes == 3
    assert [found.test.label(index) for index in range(3)] == [0, 2, 2]
    assert found.test.class_names == ("cat", "dog", "emu")


def test_several_missing_classes(animals, plugins, tmp_path):
    found = open_datasets(Data(train=animals(emu=2), validation=0.0), plugins)
    assert class_notes(found) == [f"test: 2 of 3 classes have no image in '{tmp_path / 'test'}': 'cat', 'dog'"]


def test_a_class_in_another_case_is_the_same_class(animals, plugins, tmp_path):
    found = open_datasets(Data(train=animals(Dog=2, cat=1, EMU=1), validation=0.0), plugins)
    assert class_notes(found) == [
        f"test: classes of '{tmp_path / 'test'}' that differ only in case are matched: 'Dog' as 'dog', 'EMU' as 'emu'"
    ]
    assert sorted(found.test.labels.tolist()) == [0, 1, 1, 2]


def test_two_cases_of_a_class_are_not_merged_silently(animals, plugins, tmp_path):
    with pytest.raises(DataError) as caught:
        open_datasets(Data(train=animals(dog=2, Dog=1)), plugins)
    assert str(caught.value) == (
        f"data.test: '{tmp_path / 'test'}' has 1 class that '{tmp_path / 'train'}' lacks: 'Dog'; rename or remove it "
        f"there, or add images of it to '{tmp_path / 'train'}'"
    )


@pytest.mark.parametrize(
    ("other", "names", "places"),
    [
        (("dog", "cat"), ("cat", "dog"), [1, 0]),
        (("CAT",), ("cat", "Cat"), [None]),
        (("Cat",), ("cat", "Cat"), [1]),
        (("e\u0301cureuil",), ("\u00e9cureuil",), [0]),
        (("STRASSE",), ("stra\u00dfe",), [0]),
        ((), ("cat",), []),
    ],
)
def test_places_of_names(other, names, places):
    assert places_of(other, names) == places
