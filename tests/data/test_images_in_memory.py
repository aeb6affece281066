from dataclasses import replace
from multiprocessing import get_start_method
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from distillkit.data.batches import TrainingData
from distillkit.data.images_in_memory import ImagesInMemory, bytes_in_memory, keeps_images
from distillkit_plugins.datasets.folder import Folder

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_pictures):
    """40 PNG files of 8 x 8 pixels, one of another size, one turned by its EXIF data, and one that is not an image."""
    root = write_pictures(tmp_path_factory.mktemp("images"), {"cat": 24, "dog": 16})
    Image.effect_noise((12, 20), 50).save(root / "cat/noise.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise((14, 9), 50).convert("RGB").save(root / "dog/turned.jpg", exif=exif)
    (root / "dog/broken.png").write_bytes(b"no image")
    return root


def made(opened, recipe, spec, folder, **data):
    tables = {"data": {"train": str(folder), "validation": 0, "workers": 0, **data}, "augment": {"repeats": 2}}
    return TrainingData(opened(recipe(**tables)), recipe(**tables), spec=spec, device=CPU, replace_broken=True)


@pytest.mark.parametrize("data", [{}, {"workers": 2}, {"decode": "fast"}], ids=str)
def test_images_in_memory_change_no_batch(opened, recipe, spec, folder, data):
    read = made(opened, recipe, spec, folder, cache_mb=0, **data)
    kept = made(opened, recipe, spec, folder, **data)
    for one, other in zip(read.windows(0, 9), kept.windows(0, 9), strict=True):
        (batch,), (same,) = one.micro_batches, other.micro_batches
        assert batch.keys == same.keys
        assert torch.equal(batch.images, same.images)
        assert one.broken == other.broken
    assert "bytes_in_memory" not in read.facts
    assert kept.facts["bytes_in_memory"] > 0


def test_only_a_set_that_is_shown_twice_and_fits_is_kept(opened, recipe, spec, folder):
    for steps, cache_mb, is_kept in ((2, 1, False), (9, 0, False), (9, 1, True)):
        data = made(opened, recipe, spec, folder, cache_mb=cache_mb)
        list(data.windows(0, steps))
        assert ("bytes_in_memory" in data.facts) == is_kept
    assert keeps_images(2_000_000, 2, shown=100, images=50)
    assert not keeps_images(2_000_001, 2, shown=100, images=50)
    assert not keeps_images(2_000_000, 2, shown=99, images=50)
    assert not keeps_images(None, 2, shown=100, images=50)


def test_images_are_not_kept_where_memory_is_short(opened, recipe, spec, folder, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    data = made(opened, recipe, spec, folder)
    list(data.windows(0, 9))
    assert "bytes_in_memory" not in data.facts


def test_the_estimate_counts_the_pixels_of_the_files(tmp_path, write_pictures, opened, recipe):
    write_pictures(tmp_path, {"cat": 40})
    assert bytes_in_memory(Folder(tmp_path)) == 40 * 8 * 8 * 3
    assert bytes_in_memory(opened(recipe(data={"train": "digits"})).train) is None  # it has no files


def test_images_come_back_as_they_were():
    draw = np.random.default_rng(0)
    images = {index: draw.integers(0, 256, (index + 1, 4, 3), np.uint8) for index in (4, 0, 2)}
    memory = ImagesInMemory(5)
    for part in ((4, 0), (2,)):
        pixels = torch.from_numpy(np.concatenate([images[index].ravel() for index in part]))
        memory.add(part, pixels, [images[index].shape[:2] for index in part])
    for index in range(5):
        found = memory.image(index)
        assert (found is None) == (index not in images)
        assert found is None or np.array_equal(found, images[index])
    assert memory.bytes == (5 + 1 + 3) * 12
    assert all(chunk.is_shared() == (get_start_method() != "fork") for chunk in memory._chunks)


def test_images_that_fast_decoding_may_reduce_are_not_kept(opened, recipe, spec, folder):
    small = replace(spec, image_size=(4, 4))  # all images have at least twice these pixels on each side
    data = made(opened, recipe, small, folder, decode="fast")
    list(data.windows(0, 9))
    assert data.facts["bytes_in_memory"] == 0
