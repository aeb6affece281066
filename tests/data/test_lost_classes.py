"""Classes without a readable image, where all images were tried and where some were not."""

from __future__ import annotations

import pytest

from distillkit.data.lost_classes import lost_class_note, lost_classes
from distillkit.data.splits import open_datasets
from distillkit.recipe.image_tables import Data


@pytest.fixture
def train(write_pictures, tmp_path, plugins):
    """Five images of `cat`, all unreadable but the last one of `dog`, four unreadable ones of `rare`."""
    write_pictures(tmp_path, {"cat": 5, "dog": 5, "rare": 4})
    names = {name: sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("cat", "dog", "rare")}
    broken = [f"dog/{each}" for each in names["dog"][:4]] + [f"rare/{each}" for each in names["rare"]]
    for key in broken:
        (tmp_path / key).write_bytes(b"")
    return open_datasets(Data(train=str(tmp_path), validation=0.0), plugins).train, broken


def test_all_images_were_tried(train):
    source, broken = train
    assert lost_classes(source, broken) == ("rare",)
    assert lost_classes(source, broken[:-1]) == ()
    assert lost_classes(source, []) == lost_classes(None, broken) == ()


@pytest.mark.parametrize(("seen", "lost"), [(8, ("rare",)), (6, ("rare",)), (5, ()), (4, ())])
def test_the_others_of_a_broken_class_are_tried(train, seen, lost):
    source, broken = train
    assert lost_classes(source, broken[:seen], try_others=True) == lost


def test_the_sentence():
    assert lost_class_note("test", ["a", "b"]) == "test: no image of classes 'a', 'b' can be read"
