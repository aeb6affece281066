"""A few images to look at, rather than to learn from or to measure on."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import torch

from distillkit.contracts import ModelSpec
from distillkit.data.datasets import DataSets
from distillkit.data.sources import Source, Stream, load_image
from distillkit.data.transforms import evaluation_transform
from distillkit.recipe import Augment
from distillkit.run_info import Samples

if TYPE_CHECKING:
    from PIL.Image import Image


def evaluation_samples(
    datasets: DataSets, spec: ModelSpec, augment: Augment, *, count: int, device: torch.device
) -> Samples:
    """Up to `count` validation images, else test images, else training images, as `spec` sees them in evaluation.

    Of images with an index they are spread evenly, of a stream they are the first.
    Raises: DataError for an image that cannot be read.
    """
    sets = {"validation": datasets.validation, "test": datasets.test, "train": datasets.train}
    split, source = next((split, found) for split, found in sets.items() if found is not None)
    transform = evaluation_transform(augment, spec)
    keys, labels, images = zip(*_taken(source, count), strict=True)
    return Samples(split, keys, labels, torch.stack([transform(image) for image in images]).to(device))


def _taken(source: Source | Stream, count: int) -> list[tuple[str, int | None, Image]]:
    if isinstance(source, Stream):
        return [(str(number), label, image) for number, (image, label) in enumerate(islice(source.read(0), count))]
    images = len(source)
    count = min(count, images)
    indices = [(2 * number + 1) * images // (2 * count) for number in range(count)]
    return [(source.key(index), source.label(index), load_image(source, index)) for index in indices]
