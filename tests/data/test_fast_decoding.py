import random
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import functional

from distillkit.benchmark.generated_images import GeneratedImages
from distillkit.contracts.decoding import AS_STORED
from distillkit.data.batches import TrainingData
from distillkit.data.fast_decoding import FastCrop, FastImages
from distillkit.data.image_folders import list_images
from distillkit.data.randomness import isolated, reseed
from distillkit.data.selection import SelectedPart, Selection
from distillkit.data.splits import DataSets, fingerprint
from distillkit.data.transforms import training_transform

CPU = torch.device("cpu")


@pytest.fixture
def jpeg():
    """A smooth picture of 200 x 160 pixels as a JPEG file in memory."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((200, 160), Image.Resampling.BICUBIC)


class Jpegs:
    """A source of one JPEG file in memory, with an EXIF orientation."""

    name, class_names = "jpegs", None

    def __init__(self, image, orientation=1):
        exif, content = Image.Exif(), BytesIO()
        exif[0x0112] = orientation
        image.save(content, "JPEG", quality=95, exif=exif)
        self._content = content.getvalue()

    def key(self, index):
        return "picture"

    def file(self, index):
        return BytesIO(self._content)


def fast_images(source, *, size, scale, repeats=1):
    crop = FastCrop(RandomResizedCropAndInterpolation(size, scale=scale, interpolation="bicubic"), "bicubic")
    return FastImages(source, AS_STORED, crop, is_turned=True, seed=0, repeats=repeats)


@pytest.mark.parametrize(("size", "scale"), [((20, 20), 8), ((40, 40), 4), ((80, 50), 2), ((80, 90), 2), ((90, 90), 1)])
def test_a_whole_image_is_decoded_at_the_largest_scale_that_keeps_the_pixels_of_the_result(jpeg, size, scale):
    images = fast_images(Jpegs(jpeg), size=size, scale=(1.0, 1.0))
    assert images.crop.scale((200, 160), ()) == scale


def test_all_crops_of_an_image_have_at_least_the_pixels_of_the_result(jpeg):
    images = fast_images(Jpegs(jpeg), size=(32, 24), scale=(0.1, 1.0), repeats=3)
    for view in range(20):
        decoded = images(0, view, 0)
        scale = round(200 / decoded.width)
        with isolated():
            for repeat in range(3):
                reseed(0, "sample", view, repeat, "picture")
                _, _, height, width = images.crop._draw((200, 160))
                assert scale == 1 or (height >= 32 * scale and width >= 24 * scale)


def test_the_crop_is_timms_and_differs_from_it_by_rounding(jpeg):
    timm_crop = RandomResizedCropAndInterpolation((24, 24), scale=(0.2, 0.5), interpolation="bicubic")
    fast = FastCrop(timm_crop, "bicubic")
    for seed in range(10):
        random.seed(seed)
        expected = np.asarray(timm_crop(jpeg), np.int64)
        random.seed(seed)
        assert abs(np.asarray(fast(jpeg), np.int64) - expected).max() <= 2


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_crop_of_a_reduced_image_shows_the_same_part(jpeg, orientation):
    source = Jpegs(jpeg, orientation)
    images = fast_images(source, size=(24, 24), scale=(0.6, 1.0))
    reduced = images(0, 5, 0)
    assert reduced.width in {100, 50}
    full = Image.open(source.file(0)).convert("RGB")
    from distillkit.data.orientation import upright

    with isolated():
        reseed(0, "sample", 5, 0, "picture")
        found = np.asarray(images.crop(upright(reduced)), np.int64)
        reseed(0, "sample", 5, 0, "picture")
        top, left, height, width = images.crop._draw(upright(full).size)
    expected = functional.resized_crop(upright(full), top, left, height, width, [24, 24])
    assert abs(found - np.asarray(expected, np.int64)).mean() < 4  # of 255; unrelated parts differ by about 60


def windows_of(recipe, spec, **tables):
    """The first windows of generated JPEG files for a student of 40 x 40 pixels."""
    train = Selection("generated", None, [SelectedPart.whole(GeneratedImages(40, 10))])
    datasets = DataSets(train, train.labelled(), None, None, None, 10, (), fingerprint(train, None))
    data = TrainingData(datasets, recipe(**tables), spec=replace(spec, image_size=(40, 40)), device=CPU)
    return [batch for window in data.windows(0, 2) for batch in window.micro_batches]


def pixels(batches):
    return {
        tuple(place): image.numpy().tobytes()
        for batch in batches
        for place, image in zip(batch.addresses[:, :3].tolist(), batch.images, strict=True)
    }


def test_fast_pixels_depend_on_no_worker_and_no_micro_batch(recipe, spec):
    tables = {"augment": {"repeats": 3}, "mixing": {"mixup": 0.0, "cutmix": 0.0}}
    data = {"decode": "fast", "workers": 0}
    alone = pixels(windows_of(recipe, spec, data=data, training={"batch_size": 16}, **tables))
    for workers, size in ((2, None), (0, 2), (0, 6)):
        training = {"batch_size": 16, "micro_batch_size": size}
        found = pixels(windows_of(recipe, spec, data=data | {"workers": workers}, training=training, **tables))
        assert found == alone
    exact = pixels(windows_of(recipe, spec, data={"workers": 0}, training={"batch_size": 16}, **tables))
    assert exact.keys() == alone.keys()
    assert exact != alone


def test_nearest_interpolation_stays_exact(recipe, spec):
    augment = recipe(augment={"interpolation": "nearest"}).augment
    assert training_transform(augment, spec, "fast").fast_crop is None


def test_fast_pixels_of_small_images_are_close_to_the_exact_ones(recipe, spec, digits):
    picture = Image.fromarray(digits[0][3]).convert("RGB").resize((40, 30))
    augment = recipe(augment={"auto": "", "erasing": 0.0}).augment
    for seed in range(10):
        found = []
        for decode in ("exact", "fast"):
            with isolated():
                reseed(seed)
                found.append(training_transform(augment, spec, decode)(picture))
        torch.testing.assert_close(*found, atol=2.1 / 255 / 0.25, rtol=0)


def test_folders_name_their_files(tmp_path, write_pictures):
    from distillkit_plugins.datasets.folder import Folder

    write_pictures(tmp_path, {"cat": 2})
    folder = Folder(tmp_path)
    assert [folder.file(index) for index in range(2)] == [tmp_path / key for key in list_images(tmp_path)[0]]
