import numpy as np
import pytest
import torch
from PIL import Image

from distillkit.data.batches import TrainingData
from distillkit.data.decoded_once import DecodedOnce, jobs_of
from distillkit.data.image_faults import ImageFault
from distillkit.data.selection import SelectedPart, Selection
from distillkit.data.splits import DataSets, fingerprint

CPU = torch.device("cpu")


class Counting:
    """Ten images of random pixels that count how often each is decoded; the fourth cannot be."""

    name, class_names = "counting", None

    def __init__(self):
        self.decoded = []

    def __len__(self):
        return 10

    def key(self, index):
        return str(index)

    def label(self, index):
        return index % 2

    def image(self, index):
        self.decoded.append(index)
        if index == 3:
            raise ImageFault("damaged", "broken")
        pixels = np.random.default_rng(index).integers(0, 256, (20, 24, 3), np.uint8)
        return Image.fromarray(pixels)


def windows(recipe, spec, steps, **tables):
    """The decoded indices, and the windows, of a run on `Counting`."""
    source = Counting()
    train = Selection("counting", None, [SelectedPart.whole(source)])
    datasets = DataSets(train, train.labelled(), None, None, None, 2, (), fingerprint(train, None))
    data = TrainingData(datasets, recipe(**tables), spec=spec, device=CPU, replace_broken=True)
    return source.decoded, list(data.windows(0, steps))


def test_a_step_decodes_each_image_once_for_all_of_its_repeats(recipe, spec):
    tables = {"augment": {"repeats": 3}, "training": {"batch_size": 30}}
    decoded, (window,) = windows(recipe, spec, 1, **tables)
    (batch,) = window.micro_batches
    shown = {index for index in batch.index.tolist() if index != 3}
    assert len(batch.images) == 10  # an epoch of fewer than 256 images has one entry for each
    assert len(shown) < len(batch.images)
    readable = [index for index in decoded if index != 3]
    assert set(readable) == shown
    assert len(readable) <= len(shown) + decoded.count(3)  # a replacement is decoded by itself


def test_the_micro_batches_of_a_job_are_those_that_share_images():
    parts = [np.array([[image, 0] for image in images]) for images in ([0, 1], [1, 2], [3, 4], [4, 5], [5, 6], [6, 7])]

    def sizes(repeats):
        return [len(job) for job in jobs_of(parts, repeats)]

    assert sizes(1) == [1, 1, 1, 1, 1, 1]
    assert sizes(3) == [2, 3, 1]
    assert sizes(9) == [2, 4]
    assert np.array_equal(np.concatenate([each for job in jobs_of(parts, 3) for each in job]), np.concatenate(parts))


def test_an_image_is_kept_until_its_last_use_in_its_group():
    decoded = []

    def decode(index, group):
        decoded.append((index, group))
        return Image.new("RGB", (1, 1))

    entries = np.array([[0, 0], [1, 0], [0, 1], [0, 2], [1, 1]])
    once = DecodedOnce(decode, 2, [entries])
    images = [once(index, repeat) for index, repeat in entries.tolist()]
    assert decoded == [(0, 0), (1, 0), (0, 1)]  # the repeat 2 of image 0 is in the second group of two
    assert images[0] is images[2]
    assert images[1] is images[4]
    assert images[3] is not images[0]
    assert not once._kept


@pytest.mark.parametrize("crop", ["resized", "padded", "none"])
def test_no_transform_changes_the_image_that_other_views_are_made_of(recipe, spec, crop):
    from distillkit.data.randomness import isolated, reseed
    from distillkit.data.transforms import training_transform

    image = Counting().image(0).resize(spec.image_size)  # the size of the student: nothing has to be resized
    before = image.tobytes()
    for decode in ("exact", "fast"):
        augment = recipe(augment={"crop": crop, "color_jitter": 0.4, "scale": (1.0, 1.0)}).augment
        transform = training_transform(augment, spec, decode)
        with isolated():
            for seed in range(40):
                reseed(seed)
                transform(image)
    assert image.tobytes() == before
