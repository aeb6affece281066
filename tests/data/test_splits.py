from types import SimpleNamespace

import numpy as np
import pytest

from distillkit.data.sources import load_image
from distillkit.data.splits import open_datasets
from distillkit.errors import DataError, MissingExtraError, PluginError
from distillkit.recipe.image_tables import Data


def keys(source):
    return [source.key(index) for index in range(len(source))]


def labels(source):
    return [source.label(index) for index in range(len(source))]


@pytest.fixture
def refused(plugins):
    """The error message for these `[data]` settings."""

    def sentence(**data):
        with pytest.raises(DataError) as caught:
            open_datasets(Data(**data), plugins)
        return str(caught.value)

    return sentence


def test_the_default_is_digits_with_a_tenth_held_out(plugins):
    found = open_datasets(Data(), plugins)
    assert (len(found.train), len(found.validation), len(found.test)) == (1167, 130, 500)
    assert found.class_names == tuple("0123456789")
    assert found.classes == 10
    assert found.labelled.all()
    assert not found.streaming
    assert found.notes == (
        "train: 1,167 images, 1,167 labelled",
        "test: 500 images of 'digits'",
        "validation: 130 images held out of train",
    )
    assert not set(keys(found.train)) & set(keys(found.validation))
    assert not set(keys(found.train)) & set(keys(found.test))


def test_held_out_images_depend_only_on_the_seed(plugins):
    first = open_datasets(Data(), plugins)
    assert keys(first.validation) == keys(open_datasets(Data(labels=50), plugins).validation)
    assert keys(first.validation) != keys(open_datasets(Data(seed=1), plugins).validation)


def test_few_labels_and_many_images(plugins):
    found = open_datasets(Data(labels=100), plugins)
    assert len(found.train) == 1167
    assert found.labelled.sum() == 100
    seen = [label for label in labels(found.train) if label is not None]
    assert np.bincount(seen).tolist() == [10] * 10
    assert [label is not None for label in labels(found.train)] == found.labelled.tolist()
    assert found.notes[-1] == "labels: 100 kept, balanced over the classes; 1,067 images used as unlabelled"


def test_classes_without_a_kept_label_are_listed(plugins, write_pictures, tmp_path):
    assert open_datasets(Data(labels=5), plugins).notes[-2:] == (
        "labels: 5 kept, balanced over the classes; 1,162 images used as unlabelled",
        "labels: 5 of 10 classes have no labelled image and can only be learnt from a teacher: 5, 6, 7, ...",
    )
    write_pictures(tmp_path, {"cat": 1, "cow": 1, "dog": 1})
    assert open_datasets(Data(train=str(tmp_path), labels=2, validation=0), plugins).notes[-2:] == (
        "labels: 2 kept, balanced over the classes; 1 image used as unlabelled",
        "labels: 1 of 3 classes has no labelled image and can only be learnt from a teacher: dog",
    )


def test_classes_without_names_are_named_by_number(offering):
    nameless = offering({"train": Shapes(None)})
    found = open_datasets(Data(train="shapes", labels=1, validation=0), nameless)
    assert found.classes == 2
    assert found.notes[-1] == "labels: 1 of 2 classes has no labelled image and can only be learnt from a teacher: 1"


def test_one_image_is_not_called_images(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path / "a", {"cat": 3, "dog": 3})
    write_pictures(tmp_path / "b", {"": 1})
    found = open_datasets(Data(train=str(tmp_path / "a"), unlabeled=str(tmp_path / "b")), plugins)
    assert found.notes == (
        "train: 6 images, 5 labelled",
        "validation: 1 image held out of train",
        f"unlabeled: 1 image of '{tmp_path / 'b'}'",
    )
    assert found.only_labelled().notes[-1] == "dropped: 1 unlabelled image, because no loss reads a teacher"


def test_only_labelled_images(plugins):
    found = open_datasets(Data(labels=100), plugins)
    only = found.only_labelled()
    assert len(only.train) == 100
    assert only.labelled.all()
    assert set(keys(only.train)) <= set(keys(found.train))
    assert only.notes == (
        *found.notes[:-1],
        (
            "labels: 100 kept, balanced over the classes; the other 1,067 images are not used, because no loss reads "
            "a teacher"
        ),
    )
    assert only.fingerprint != found.fingerprint
    assert only.only_labelled() is only


def test_kept_labels_and_unlabelled_images_without_a_teacher(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path / "a", {"cat": 5, "dog": 5})
    write_pictures(tmp_path / "b", {"": 4})
    data = Data(train=str(tmp_path / "a"), unlabeled=str(tmp_path / "b"), validation=0.0, labels=4)
    found = open_datasets(data, plugins)
    first = ("train: 14 images, 4 labelled", f"unlabeled: 4 images of '{tmp_path / 'b'}'")
    assert found.notes == (*first, "labels: 4 kept, balanced over the classes; 6 images used as unlabelled")
    assert found.only_labelled().notes == (
        *first,
        "labels: 4 kept, balanced over the classes; the other 6 images are not used, because no loss reads a teacher",
        "dropped: 4 unlabelled images, because no loss reads a teacher",
    )


def test_all_labels_kept_and_unlabelled_images_without_a_teacher(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path / "a", {"cat": 2, "dog": 2})
    write_pictures(tmp_path / "b", {"": 1})
    data = Data(train=str(tmp_path / "a"), unlabeled=str(tmp_path / "b"), validation=0.0, labels=4)
    assert open_datasets(data, plugins).only_labelled().notes[-2:] == (
        "labels: 4 kept, balanced over the classes",
        "dropped: 1 unlabelled image, because no loss reads a teacher",
    )


def test_a_single_labelled_image_is_not_held_out(offering):
    one = offering({"train": Shapes(("cat", "dog"), 1)})
    with pytest.raises(DataError) as caught:
        open_datasets(Data(train="shapes"), one)
    assert str(caught.value) == (
        "there is a single labelled image, so none can be held out for validation; add labelled images, name a "
        "validation set, or train without one: --set data.validation=0"
    )
    found = open_datasets(Data(train="shapes", validation=0), one)
    assert (len(found.train), found.validation) == (1, None)


def test_a_single_image_of_a_single_class_is_refused_for_its_class(refused, write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 1})
    assert refused(train=str(tmp_path)) == (
        f"'{tmp_path}' has a single class, 'cat'; give every class a folder; to train on images without labels, use "
        "`distillkit run --unlabeled DIR`"
    )


def test_different_data_have_different_fingerprints(plugins):
    prints = [
        open_datasets(data, plugins).fingerprint
        for data in (Data(), Data(), Data(labels=100), Data(seed=1), Data(validation=0.2))
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
    assert len(prints[0]) == 32


def test_a_split_folder(plugins, write_pictures, tmp_path):
    for part, counts in {
        "train": {"cat": 4, "dog": 5},
        "val": {"cat": 1, "dog": 2},
        "test": {"cat": 2, "dog": 1},
    }.items():
        write_pictures(tmp_path / part, counts)
    found = open_datasets(Data(train=str(tmp_path)), plugins)
    assert (len(found.train), len(found.validation), len(found.test)) == (9, 3, 3)
    assert found.class_names == ("cat", "dog")
    assert labels(found.validation) == [0, 1, 1]
    assert found.notes == (
        "train: 9 images, 9 labelled",
        f"validation: 3 images of '{tmp_path / 'val'}'",
        f"test: 3 images of '{tmp_path / 'test'}'",
    )


def test_a_validation_share_of_0_turns_validation_off(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path / "train", {"cat": 4, "dog": 5})
    write_pictures(tmp_path / "val", {"cat": 1, "dog": 2})
    found = open_datasets(Data(train=str(tmp_path), validation=0), plugins)
    assert found.validation is None
    assert len(found.train) == 9


def test_folders_by_name(plugins, write_pictures, tmp_path):
    for part in ("a", "b", "c"):
        write_pictures(tmp_path / part, {"cat": 3, "dog": 3})
    data = Data(train=str(tmp_path / "a"), validation=str(tmp_path / "b"), test=f"folder:{tmp_path / 'c'}")
    found = open_datasets(data, plugins)
    assert (len(found.train), len(found.validation), len(found.test)) == (6, 6, 6)
    assert found.validation.name == str(tmp_path / "b")


def test_unlabelled_images_together_with_labelled_ones(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path / "a", {"cat": 10, "dog": 10})
    write_pictures(tmp_path / "b", {"": 3, "cat": 2})
    found = open_datasets(Data(train=str(tmp_path / "a"), unlabeled=str(tmp_path / "b")), plugins)
    assert len(found.train) == 18 + 5
    assert found.labelled.tolist() == [True] * 18 + [False] * 5
    assert keys(found.train)[18:] == [
        f"unlabeled/{key}" for key in ("0000.png", "0001.png", "0002.png", "cat/0003.png", "cat/0004.png")
    ]
    assert found.notes == (
        "train: 23 images, 18 labelled",
        "validation: 2 images held out of train",
        f"unlabeled: 5 images of '{tmp_path / 'b'}'",
    )
    assert np.array_equal(load_image(found.train, 18), load_image(found.train, 18))


def test_unlabelled_images_alone(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path, {"": 7})
    found = open_datasets(Data(unlabeled=str(tmp_path)), plugins)
    assert len(found.train) == 7
    assert not found.labelled.any()
    assert (found.classes, found.class_names, found.validation, found.test) == (None, None, None, None)
    assert found.train.name == str(tmp_path)


def test_a_flat_training_folder_has_no_labels(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path, {"": 7})
    found = open_datasets(Data(train=str(tmp_path)), plugins)
    assert (len(found.train), found.classes, found.validation) == (7, None, None)
    assert not found.labelled.any()


def test_validation_classes_are_used_if_training_has_none(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path / "many", {"": 7})
    write_pictures(tmp_path / "few", {"cat": 2, "dog": 2})
    found = open_datasets(Data(unlabeled=str(tmp_path / "many"), validation=str(tmp_path / "few")), plugins)
    assert found.class_names == ("cat", "dog")
    assert found.classes == 2


def test_a_test_folder_without_labels_is_left_out(plugins, write_pictures, tmp_path, offering):
    write_pictures(tmp_path / "train", {"cat": 10, "dog": 10})
    write_pictures(tmp_path / "test", {"": 3})
    found = open_datasets(Data(train=str(tmp_path)), plugins)
    assert found.test is None
    assert f"test: none, because '{tmp_path / 'test'}' has unlabelled images" in found.notes


class Shapes:
    """A third-party data set with its own class order."""

    name = "shapes"

    def __init__(self, class_names, count=6):
        self.class_names = class_names
        self.count = count

    def __len__(self):
        return self.count

    def key(self, index):
        return str(index)

    def label(self, index):
        return index % 2

    def image(self, index):
        raise OSError("no  picture\nhere")


@pytest.fixture
def offering(plugins, registry_of):
    """`offering({"train": source})`: the installed plugins and a data set "shapes" with these splits."""

    def make(sources):
        shapes = SimpleNamespace(open=lambda _argument, _data, split: sources.get(split))
        return registry_of("dataset", {"shapes": shapes}, plugins)

    return make


def test_labels_are_matched_by_name(offering, write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 3, "dog": 3})
    both = offering({"validation": Shapes(("dog", "cat"))})
    found = open_datasets(Data(train=str(tmp_path), validation="shapes"), both)
    assert found.class_names == ("cat", "dog")
    assert labels(found.validation) == [1, 0, 1, 0, 1, 0]


def test_classes_without_names_are_counted(offering):
    found = open_datasets(Data(train="shapes", validation=0.5), offering({"train": Shapes(None)}))
    assert (found.classes, found.class_names) == (2, None)


def test_an_unreadable_image_is_an_error():
    with pytest.raises(DataError) as caught:
        load_image(Shapes(None), 3)
    assert str(caught.value) == "image '3' of 'shapes' cannot be read: no picture here; repair or remove it"


def test_a_broken_image_is_named(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 3, "dog": 3})
    whole = (tmp_path / "cat" / "0001.png").read_bytes()
    (tmp_path / "cat" / "0001.png").write_bytes(whole[: len(whole) // 2])
    found = open_datasets(Data(train=str(tmp_path), validation=0), plugins)
    with pytest.raises(DataError) as caught:
        load_image(found.train, 1)
    assert str(caught.value) == (
        f"image 'cat/0001.png' of '{tmp_path}' cannot be read: image file is truncated; repair or remove it"
    )
    (tmp_path / "cat" / "0001.png").write_text("not a picture")
    with pytest.raises(DataError) as caught:
        load_image(found.train, 1)
    assert str(caught.value) == (
        f"image 'cat/0001.png' of '{tmp_path}' cannot be read: cannot identify image file "
        f"'{tmp_path}/cat/0001.png'; repair or remove it"
    )


def test_an_unknown_name_is_refused(refused):
    assert refused(train="digitz") == (
        "--data (data.train): 'digitz' is neither a folder nor a data set; did you mean 'digits'? "
        "(data sets: digits, folder:<path>, imagenette, timm:<data set>)"
    )
    assert refused(unlabeled="/nowhere/at/all") == (
        "--unlabeled (data.unlabeled): '/nowhere/at/all' is neither a folder nor a data set; "
        "data sets: digits, folder:<path>, imagenette, timm:<data set>"
    )


def test_a_data_set_wins_over_a_folder_of_its_name(plugins, write_pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "digits", {"cat": 3, "dog": 3})
    assert len(open_datasets(Data(train="digits", validation=0), plugins).train) == 1297
    assert len(open_datasets(Data(train="./digits", validation=0), plugins).train) == 6


def test_an_unexpected_argument_of_a_data_set_is_refused(plugins):
    with pytest.raises(PluginError) as caught:
        open_datasets(Data(train="digits:big"), plugins)
    assert str(caught.value) == "dataset 'digits' accepts nothing after a colon; write 'digits' instead of 'digits:big'"


def test_a_data_set_without_validation_images_is_refused_for_validation(refused):
    assert refused(validation="digits") == (
        "data.validation: 'digits' has no validation images; name another data set or a folder"
    )


def test_a_data_set_without_training_images_is_refused_for_training(offering):
    with pytest.raises(DataError) as caught:
        open_datasets(Data(train="shapes"), offering({}))
    assert str(caught.value) == "data.train: 'shapes' has no training images; name another data set or a folder"


def test_a_data_set_without_images(offering):
    with pytest.raises(DataError) as caught:
        open_datasets(Data(train="shapes"), offering({"train": Shapes(None, 0)}))
    assert str(caught.value) == "data.train: 'shapes' has no images"


def test_the_training_folder_is_refused_as_the_test_set(refused, write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 3, "dog": 3})
    assert refused(train=str(tmp_path), test=f"{tmp_path}/") == (
        f"data.test: '{tmp_path}/' has no test images; name another data set or a folder"
    )


def test_classes_that_differ_between_train_and_validation(refused, write_pictures, tmp_path):
    write_pictures(tmp_path / "train", {"cat": 3, "dog": 3})
    write_pictures(tmp_path / "val", {"cat": 3, "cow": 1, "pig": 1})
    assert refused(train=str(tmp_path)) == (
        f"data.validation: '{tmp_path / 'val'}' has 2 classes that '{tmp_path / 'train'}' lacks: 'cow', 'pig'; "
        f"rename or remove them there, or add images of them to '{tmp_path / 'train'}'"
    )


def test_many_differing_classes_are_not_all_listed(refused, write_pictures, tmp_path):
    write_pictures(tmp_path / "train", {"cat": 3, "dog": 3})
    write_pictures(tmp_path / "val", {"cat": 1, "dog": 1} | {f"n{number}": 1 for number in range(8)})
    assert refused(train=str(tmp_path)) == (
        f"data.validation: '{tmp_path / 'val'}' has 8 classes that '{tmp_path / 'train'}' lacks: 'n0', 'n1', 'n2', "
        f"'n3', 'n4' and 3 more; rename or remove them there, or add images of them to '{tmp_path / 'train'}'"
    )


def test_unlabelled_validation_images_are_refused(refused, write_pictures, tmp_path):
    write_pictures(tmp_path / "a", {"cat": 3, "dog": 3})
    write_pictures(tmp_path / "b", {"cat": 3, "dog": 3, "": 2})
    assert refused(train=str(tmp_path / "a"), validation=str(tmp_path / "b")) == (
        f"data.validation: 2 of the 8 images of '{tmp_path / 'b'}' have no label; "
        "move every image into the folder of its class"
    )


def test_a_single_class(refused, write_pictures, tmp_path):
    write_pictures(tmp_path, {"images": 5})
    assert refused(train=str(tmp_path)) == (
        f"'{tmp_path}' has a single class, 'images'; give every class a folder; to train on images without "
        "labels, use `distillkit run --unlabeled DIR`"
    )


def test_a_label_without_a_name(offering):
    with pytest.raises(DataError) as caught:
        open_datasets(Data(train="shapes", validation=0), offering({"train": Shapes(("circle",))}))
    assert str(caught.value) == "'shapes' has the label 1, but only 1 class names"


def test_data_labels_without_training_data_is_refused(refused, write_pictures, tmp_path):
    write_pictures(tmp_path, {"": 5})
    assert refused(unlabeled=str(tmp_path), labels=100) == (
        "data.labels = 100 needs data.train, which is not set; name a labelled data set"
    )


def test_unlabelled_data_without_a_teacher_is_refused(plugins, write_pictures, tmp_path):
    write_pictures(tmp_path, {"": 5})
    with pytest.raises(DataError) as caught:
        open_datasets(Data(unlabeled=str(tmp_path)), plugins).only_labelled()
    assert str(caught.value) == (
        f"no image of '{tmp_path}' has a label and no loss reads a teacher, so there is nothing to learn from; "
        "name labelled images in data.train or add a teacher"
    )


def test_without_scikit_learn_the_error_names_the_extra(plugins, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    monkeypatch.delitem(__import__("sys").modules, "distillkit_plugins.datasets.digits", raising=False)
    with pytest.raises(MissingExtraError) as caught:
        open_datasets(Data(), plugins)
    assert str(caught.value) == (
        "dataset 'digits' needs sklearn, which is not installed; pip install \"distillkit[train]\""
    )
