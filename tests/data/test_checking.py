"""A check finds what a run would find, in any number of processes, and what is wrong with the classes."""

import os
import signal
import time

import pytest

from distillkit import DataError
from distillkit.data.checking import check
from distillkit.recipe.schema import Data
from tests.data.breaking import break_some

BATCH = 8


@pytest.fixture
def checked(plugins):
    return lambda folder, workers=0, **more: check(
        Data(train=str(folder)), plugins, batch_size=BATCH, workers=workers, **more
    )


@pytest.fixture(scope="session")
def folder(write_pictures, tmp_path_factory):
    """A folder with three sets, and how images of each are broken."""
    root = tmp_path_factory.mktemp("checked")
    broken = {}
    for name, split, count in (("train", "train", 50), ("val", "validation", 20), ("test", "test", 20)):
        write_pictures(root / name, {"cat": count // 2, "dog": count // 2}, start=count)
        broken |= {(split, key): kind for key, kind in break_some(root / name, 9).items()}
    return root, broken


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_broken_image_is_listed_once_with_its_kind_in_order(checked, folder, workers):
    root, broken = folder
    found = checked(root, workers)
    assert {(image.split, image.key): image.kind for image in found.broken} == broken
    assert len(found.broken) == len(broken) == 27
    assert found.images == {"train": 50, "validation": 20, "test": 20}
    assert found.broken == checked(root).broken
    assert (found.classes, found.wrong, found.notes, found.is_well) == (2, (), (), False)
    kinds = list(broken.values())
    assert found.kinds() == {kind: kinds.count(kind) for kind in set(kinds)}


def test_progress_is_reported_to_the_last_image(checked, folder):
    progress = []
    checked(folder[0], on_progress=lambda *count: progress.append(count))
    assert [of for _, of in progress] == [90] * len(progress)
    assert [done for done, _ in progress] == [16, 32, 48, 50, 66, 70, 86, 90]


def test_a_sound_folder_is_well(checked, write_pictures, tmp_path):
    found = checked(write_pictures(tmp_path, {"cat": 8, "dog": 8}))
    assert found.is_well
    assert found.as_dict() == {
        "data": str(tmp_path),
        "well": True,
        "images": {"train": 16},
        "classes": 2,
        "kinds": {"train": {}},
        "broken": [],
        "wrong": [],
        "notes": [],
    }


def test_what_is_wrong_with_the_classes_is_all_listed(checked, write_pictures, tmp_path):
    write_pictures(tmp_path / "train", {"cat": 2, "Cat": 2, "emu": 0, "": 1})
    write_pictures(tmp_path / "val", {"cat": 2, "dog": 2})
    (tmp_path / "test").mkdir()
    found = checked(tmp_path)
    train, val = tmp_path / "train", tmp_path / "val"
    pictures = ".bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp"
    assert found.wrong == (
        f"test: folder '{tmp_path}/test' has no pictures ({pictures})",
        (
            f"data.validation: the classes of '{val}' are not those of '{train}'; missing: Cat; unknown: dog; "
            "give every split the same class folders"
        ),
        f"1 class of '{train}' has no image: 'emu'",
        f"the classes 'Cat', 'cat' of '{train}' differ in case alone; are they one?",
    )
    assert found.notes == (
        f"1 image of '{train}' has no label: it lies beside the class folders",
        (
            "training.batch_size = 8 is more than the 5 training images, so every step sees them all; "
            "lower it for more steps"
        ),
    )
    assert not found.is_well


def test_one_class_is_wrong(checked, write_pictures, tmp_path):
    found = checked(write_pictures(tmp_path, {"cat": 9}))
    (sentence,) = found.wrong
    assert sentence == (
        f"'{tmp_path}' has a single class, 'cat'; give every class a folder, or name pictures without labels in "
        "data.unlabeled"
    )


def test_notes_alone_are_well(checked, write_pictures, tmp_path):
    found = checked(write_pictures(tmp_path, {"cat": 2, "dog": 2, "": 1}))
    assert len(found.notes) == 2
    assert found.is_well


def test_pictures_without_labels_can_be_checked(checked, write_pictures, tmp_path):
    found = checked(write_pictures(tmp_path, {"": 12}))
    assert (found.classes, found.is_well) == (None, True)


def test_where_there_is_nothing_to_read(checked, tmp_path):
    with pytest.raises(DataError, match=r"^'.*none' is neither a folder nor a data set; "):
        checked(tmp_path / "none")


class KillsItsReader:
    """A data set whose reader is killed, as the kernel does where memory runs out."""

    name, class_names = "big", None

    def __len__(self):
        return 64

    def key(self, index):
        return str(index)

    def label(self, index):
        return None

    def image(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_reader_that_is_killed_is_a_sentence(plugins, monkeypatch):
    from distillkit.data import checking

    monkeypatch.setattr(checking, "_opened", lambda *_: {"train": KillsItsReader()})
    with pytest.raises(DataError) as caught:
        check(Data(train="big"), plugins, batch_size=1, workers=1)
    assert str(caught.value) == (
        "a process that reads images was ended from outside, mostly for want of memory; check with --workers 0"
    )


def test_a_stream_is_read_to_its_end(plugins, monkeypatch):
    from distillkit.data import checking

    class Stream:
        name, class_names, shards = "timm:wds/x", ("a", "b"), 1

        def __len__(self):
            return 9

        def read(self, number):
            yield from [(None, 0)] * 3
            raise OSError("no more of it")

    monkeypatch.setattr(checking, "_opened", lambda *_: {"train": Stream()})
    progress = []
    found = check(Data(train="x"), plugins, batch_size=1, workers=1, on_progress=lambda *count: progress.append(count))
    assert progress == [(1, 9), (2, 9), (3, 9)]
    assert found.wrong == (
        "the stream 'timm:wds/x' cannot be read on: no more of it; repair the part that it was reading",
    )
    assert found.classes == 2


def test_the_rest_of_a_check_that_is_left_ends_with_it(checked, folder):
    import multiprocessing

    before = set(multiprocessing.active_children())

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checked(folder[0], 2, on_progress=stop)
    deadline = time.monotonic() + 20
    while set(multiprocessing.active_children()) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(multiprocessing.active_children()) == before
