"""Sample images for trackers and reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch

from distillkit.contracts.model import ModelSpec
from distillkit.contracts.run import Samples
from distillkit.data.sources import Source, Stream, is_stream, load_image, read_stream
from distillkit.data.splits import DataSets
from distillkit.data.transforms import evaluation_transform
from distillkit.errors import UnreadableImageError
from distillkit.recipe.image_tables import Augment

if TYPE_CHECKING:
    from PIL.Image import Image


def evaluation_samples(
    datasets: DataSets, spec: ModelSpec, augment: Augment, *, count: int, device: torch.device
) -> Samples:
    """Up to `count` validation images [B, C, H, W], transformed for `spec` as in evaluation.

    Without validation images, test images; without those, training images. They are spread evenly over indexed images,
    and are the first of a stream. Unreadable images are left out.
    Raises: DataError if none can be read.
    """
    sets = {"validation": datasets.validation, "test": datasets.test, "train": datasets.train}
    split, source = next((split, found) for split, found in sets.items() if found is not None)
    transform = evaluation_transform(augment, spec)
    keys, labels, images = zip(*_load_samples(source, count), strict=True)
    return Samples(split, keys, labels, torch.stack([transform(image) for image in images]).to(device))


def _load_samples(source: Source | Stream, count: int) -> list[tuple[str, int | None, Image]]:
    if is_stream(source):
        read = read_stream(source, 0)
        return [(str(number), label, image) for number, (image, label) in enumerate(islice(read, count))]
    return list(_readable(source, spread_indices(len(source), count)))


def spread_indices(images: int, count: int) -> list[int]:
    """Indices of up to `count` of `images`, spread evenly: the middle of each of `count` bins.

    >>> spread_indices(100, 4)
    [12, 37, 62, 87]
    """
    count = min(count, images)
    return [(2 * number + 1) * images // (2 * count) for number in range(count)]


def _readable(source: Source, indices: Sequence[int]) -> Iterator[tuple[str, int | None, Image]]:
    """Key, label and image of the readable ones. Raises the last error if none can be read."""
    error, is_any_readable = None, False
    for index in indices:
        try:
            image = load_image(source, index)
        except UnreadableImageError as unreadable:
            error = unreadable
        else:
            is_any_readable = True
            yield source.key(index), source.label(index), image
    if error is not None and not is_any_readable:
        raise error
