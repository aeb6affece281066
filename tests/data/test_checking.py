"""A check finds the broken images that a run would find, with any number of workers, and faults of the classes."""

import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from distillkit import DataError
from distillkit.data.checking import check
from distillkit.recipe.image_tables import Data
from tests.data.breaking import break_some

BATCH = 8
GREY16 = ("refuse", "scale")


@pytest.fixture
def checked(plugins):
    return lambda folder, workers=0, **more: check(
        Data(train=str(folder)), plugins, batch_size=BATCH, workers=workers, **more
    )


@pytest.fixture(scope="session")
def folder(write_pictures, tmp_path_factory):
    """A folder with three splits, and the kind of each broken image."""
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
    assert found.notes == (
        (
            "3 unreadable images may be 16-bit grey: --grey16 scale reads it in 8 bits, as does a run with --set "
            "data.grey16=scale"
        ),
    )
    assert (found.classes, found.wrong, found.passed) == (2, (), False)
    kinds = list(broken.values())
    assert found.kinds() == {kind: kinds.count(kind) for kind in set(kinds)}


def test_progress_is_reported_to_the_last_image(checked, folder):
    progress = []
    checked(folder[0], on_progress=lambda *count: progress.append(count))
    assert [total for _, total in progress] == [90] * len(progress)
    assert [done for done, _ in progress] == [16, 32, 48, 50, 66, 70, 86, 90]


def test_a_sound_folder_passes(checked, write_pictures, tmp_path):
    found = checked(write_pictures(tmp_path, {"cat": 8, "dog": 8}))
    assert found.passed
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


def test_all_faults_of_the_classes_are_listed(checked, write_pictures, tmp_path):
    write_pictures(tmp_path / "train", {"cat": 2, "Cat": 2, "emu": 0, "": 1})
    write_pictures(tmp_path / "val", {"cat": 2, "dog": 2})
    (tmp_path / "test").mkdir()
    found = checked(tmp_path)
    train, val = tmp_path / "train", tmp_path / "val"
    assert found.wrong == (
        (
            f"test: folder '{tmp_path}/test' contains no images that Pillow reads; "
            "expected DIR/class/image.jpg, or DIR/image.jpg without labels; check the path"
        ),
        (
            f"data.validation: '{val}' has 1 class that '{train}' lacks: 'dog'; rename or remove it there, or add "
            f"images of it to '{train}'"
        ),
        f"1 class of '{train}' has no image: 'emu'",
        f"the classes 'Cat', 'cat' of '{train}' differ only in case; merge them if they are the same",
    )
    assert found.notes == (
        f"1 image of '{train}' has no label: it is outside the class folders",
        (
            "training.batch_size = 8 is more than the 5 training images, so every step uses all of them; "
            "lower it for more steps per epoch"
        ),
    )
    assert not found.passed


def test_a_single_class_is_listed_as_wrong(checked, write_pictures, tmp_path):
    found = checked(write_pictures(tmp_path, {"cat": 9}))
    (sentence,) = found.wrong
    assert sentence == (
        f"'{tmp_path}' has a single class, 'cat'; give every class a folder; to train on images without "
        "labels, use `distillkit run --unlabeled DIR`"
    )


def test_a_check_with_notes_only_passes(checked, write_pictures, tmp_path):
    found = checked(write_pictures(tmp_path, {"cat": 2, "dog": 2, "": 1}))
    assert len(found.notes) == 2
    assert found.passed


def test_unlabelled_images_can_be_checked(checked, write_pictures, tmp_path):
    found = checked(write_pictures(tmp_path, {"": 12}))
    assert (found.classes, found.passed) == (None, True)


def test_a_missing_data_set_is_an_error(checked, tmp_path):
    with pytest.raises(DataError, match=r"^'.*none' is neither a folder nor a data set; "):
        checked(tmp_path / "none")


class KillsItsWorker:
    """A data set whose worker process is killed, as the kernel does when memory runs out."""

    name, class_names = "big", None

    def __len__(self):
        return 64

    def key(self, index):
        return str(index)

    def label(self, index):
        return None

    def image(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error(plugins, monkeypatch):
    from distillkit.data import checking

    monkeypatch.setattr(checking, "_open_sets", lambda *_: {"train": KillsItsWorker()})
    with pytest.raises(DataError) as caught:
        check(Data(train="big"), plugins, batch_size=1, workers=1)
    assert str(caught.value) == ("a worker process was killed, probably out of memory; check with --workers 0")


def test_a_stream_is_read_to_its_end(plugins, monkeypatch):
    from distillkit.data import checking

    class Stream:
        name, class_names, shards = "timm:wds/x", ("a", "b"), 1

        def __len__(self):
            return 9

        def read(self, number):
            yield from [(None, 0)] * 3
            raise OSError("no more of it")

    monkeypatch.setattr(checking, "_open_sets", lambda *_: {"train": Stream()})
    progress = []
    found = check(Data(train="x"), plugins, batch_size=1, workers=1, on_progress=lambda *count: progress.append(count))
    assert progress == [(1, 9), (2, 9), (3, 9)]
    assert found.wrong == ("the stream 'timm:wds/x' failed: no more of it; repair the shard that it was reading",)
    assert found.classes == 2


def test_an_interrupted_check_ends_its_workers(checked, folder):
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


def test_a_class_without_a_readable_image_is_a_problem(checked, write_pictures, tmp_path):
    write_pictures(tmp_path / "train", {"cat": 9, "dog": 9, "rare": 2})
    write_pictures(tmp_path / "test", {"cat": 1, "dog": 1, "rare": 1})
    for path in [*(tmp_path / "train" / "rare").iterdir(), *(tmp_path / "test" / "rare").iterdir()]:
        path.write_bytes(b"")
    found = checked(tmp_path)
    assert found.wrong == (
        "train: no image of class 'rare' can be read",
        "test: no image of class 'rare' can be read",
    )
    assert checked(tmp_path, workers=2) == found


def test_pictures_drawn_by_their_alpha(plugins, tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number, shade in enumerate((0, 255)):
            image = Image.new("RGBA", (4, 4), (shade, shade, shade, 0))
            image.putpixel((number, 1), (shade, shade, shade, 255))
            image.save(tmp_path / name / f"{number}.png")

    def note(background):
        data = Data(train=str(tmp_path), background=background)
        notes = check(data, plugins, batch_size=1, workers=0).notes
        return notes[0] if notes else None

    many = (
        f"images of '{tmp_path}' have a single colour, such as 'ant/{{}}.png'; if they are drawn by transparency, try "
    )
    assert note("white") == f"2 {many.format(1)}another data.background than white (--background)"
    assert note("none") == f"4 {many.format(0)}another data.background than none (--background)"
    assert note("gray") is None


def test_16_bit_grey_is_read_with_the_option(plugins, tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000).save(tmp_path / name / "a.png")
    results = [check(Data(train=str(tmp_path), grey16=each), plugins, batch_size=1, workers=0) for each in GREY16]
    assert [result.passed for result in results] == [False, True]
    assert results[0].wrong == ("train: no image of classes 'ant', 'bee' can be read",)
    assert results[1].notes == ()
