"""Collation: augment, stack and mix samples into a micro-batch on the host. Runs in the loader processes."""

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
    """An image with its key and label, before augmentation."""

    image: Image
    key: str
    repeat: int
    label: int | None


class HostBatch(NamedTuple):
    """A micro-batch on the host: the fields of `MicroBatch`, and the images that could not be read for it.

    A named tuple, because torch can pin its memory.
    """

    images: Tensor
    labels: Tensor | None
    label_mass: Tensor
    keys: tuple[str, ...]
    broken: tuple[BrokenImage, ...] = ()


@dataclass(frozen=True)
class Preparation:
    """Augmentation and mixing of a micro-batch: a pure function of `seed`, view, key and repeat.

    `classes` is the number of columns of the labels, None if the run has no labels.
    """

    transform: Transform
    mixer: Mixer
    size: tuple[int, int]
    classes: int | None
    smoothing: float
    seed: int

    def __call__(self, samples: Iterable[Sample], count: int, view: int) -> HostBatch:
        """Collate `count` samples, read one at a time. Returns images [B, C, H, W], labels [B, K], label mass [B]."""
        images = torch.empty(count, 3, *self.size)
        if get_worker_info() is not None:
            # Shared memory, which the training process reads without a copy.
            images.share_memory_()  # type: ignore[no-untyped-call]
        labels: list[int | None] = []
        keys: list[str] = []
        names: list[str] = []
        with isolated():
            for position, (image, key, repeat, label) in enumerate(samples):
                # Once per image, so that its augmentation does not depend on the batch or the process that makes it.
                reseed(self.seed, "sample", view, repeat, key)
                images[position] = self.transform(image)
                labels.append(label)
                keys.append(key)
                names.append(f"{view}\0{repeat}\0{key}")
        label_mass = torch.tensor([float(label is not None) for label in labels])  # [B]
        rows = None if self.classes is None else label_rows(labels, self.classes, self.smoothing)  # [B, K]
        self.mixer(images, rows, label_mass, names)
        return HostBatch(images, rows, label_mass, tuple(keys))
