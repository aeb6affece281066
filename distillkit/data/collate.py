"""From samples to a batch on the host: augment, stack, mix. Runs in the loader's processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from distillkit.contracts.incidents import BrokenImage
from distillkit.data.mixing import Mixer, label_rows
from distillkit.data.randomness import isolated, reseed
from distillkit.data.transforms import Transform

if TYPE_CHECKING:
    from PIL.Image import Image


class Sample(NamedTuple):
    """An image, before its augmentation."""

    image: Image
    key: str
    repeat: int
    label: int | None


class HostBatch(NamedTuple):
    """A micro-batch on the host: the fields of `MicroBatch`, and the images that could not be read while it was made.

    A named tuple, because torch can pin one.
    """

    images: Tensor
    labels: Tensor | None
    label_mass: Tensor
    keys: tuple[str, ...]
    broken: tuple[BrokenImage, ...] = ()


@dataclass(frozen=True)
class Preparation:
    """What happens to the samples of a micro-batch, a pure function of `seed`, view, key and repeat.

    `classes` is the number of columns of the labels, None where the run has no labels.
    """

    transform: Transform
    mixer: Mixer
    size: tuple[int, int]
    classes: int | None
    smoothing: float
    seed: int

    def __call__(self, samples: Iterable[Sample], count: int, view: int) -> HostBatch:
        """Make a batch of `count` samples, which are taken one at a time."""
        images = torch.empty(count, 3, *self.size)
        if get_worker_info() is not None:
            # Written where the training process will read it, which saves a copy.
            images.share_memory_()  # type: ignore[no-untyped-call]
        labels: list[int | None] = []
        keys: list[str] = []
        names: list[str] = []
        with isolated():
            for position, (image, key, repeat, label) in enumerate(samples):
                reseed(self.seed, "sample", view, repeat, key)
                images[position] = self.transform(image)
                labels.append(label)
                keys.append(key)
                names.append(f"{view}\0{repeat}\0{key}")
        label_mass = torch.tensor([float(label is not None) for label in labels])
        rows = None if self.classes is None else label_rows(labels, self.classes, self.smoothing)
        self.mixer(images, rows, label_mass, names)
        return HostBatch(images, rows, label_mass, tuple(keys))
