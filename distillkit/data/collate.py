"""Collation: augment, stack and mix samples into a micro-batch on the host. Runs in the loader processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from distillkit.contracts.incidents import BrokenImage
from distillkit.data.batch_memory import BatchMemory
from distillkit.data.mixing import Mixed, Mixer, label_rows, mix, mix_labels
from distillkit.data.pixels import Erased
from distillkit.data.randomness import isolated, reseed, sample_name
from distillkit.data.transforms import TrainingTransform

if TYPE_CHECKING:
    from PIL.Image import Image


class Sample(NamedTuple):
    """An image with its key and label, before augmentation; `number` is its index in the source, -1 in a stream."""

    image: Image
    key: str
    repeat: int
    label: int | None
    number: int = -1


class HostBatch(NamedTuple):
    """A micro-batch on the host: the fields of `MicroBatch`, the images that could not be read for it, and its time.

    A named tuple, because torch can pin its memory.
    Shapes: addresses [B, 4] int64: the index of the image that is shown, its view and repeat, and a hash of the image
        as it is shown: of key, view and repeat, and where it is mixed also of its partners and its place among them.
        images [B, 3, H, W] float32; or [B, H, W, 3] uint8, with what `finished` needs in `erased` and `mixed`.
    """

    images: Tensor
    labels: Tensor | None
    label_mass: Tensor
    keys: tuple[str, ...]
    addresses: Tensor
    broken: tuple[BrokenImage, ...] = ()
    made_in_s: float = 0.0
    erased: tuple[Erased, ...] = ()
    mixed: tuple[Mixed, ...] = ()


@dataclass(frozen=True)
class Preparation:
    """Augmentation and mixing of a micro-batch: a pure function of `seed`, view, key and repeat.

    `classes` is the number of columns of the labels, None if the run has no labels. If `finishes` is off, the images
    are handed over as 8-bit pixels.
    """

    transform: TrainingTransform
    mixer: Mixer
    size: tuple[int, int]
    classes: int | None
    smoothing: float
    seed: int
    finishes: bool = True
    memory: BatchMemory = field(default_factory=BatchMemory, repr=False, compare=False)

    def __call__(self, samples: Iterable[Sample], count: int, view: int) -> HostBatch:
        """Collate `count` samples, read one at a time. Images are as in `HostBatch`, labels [B, K], label mass [B]."""
        if self.finishes:
            images = self.memory.empty((count, 3, *self.size))
        else:
            images = self.memory.empty((count, *self.size, 3), torch.uint8)
        labels: list[int | None] = []
        keys: list[str] = []
        names: list[str] = []
        places: list[tuple[int, int, int]] = []
        erased: list[Erased] = []
        with isolated():
            for position, (image, key, repeat, label, number) in enumerate(samples):
                # Once per image, so that its augmentation does not depend on the batch or the process that makes it.
                reseed(self.seed, *sample_name(view, repeat, key))
                if self.finishes:
                    self.transform(image, out=images[position])
                else:
                    images[position] = self.transform.pixels(image)
                    erased += self.transform.erased(position)
                labels.append(label)
                keys.append(key)
                names.append(f"{view}\0{repeat}\0{key}")
                places.append((number, view, repeat))
        label_mass = torch.tensor([float(label is not None) for label in labels])  # [B]
        rows = None if self.classes is None else label_rows(labels, self.classes, self.smoothing)  # [B, K]
        mixed = self.mixer.draw((count, 3, *self.size), label_mass, names)
        if rows is not None:
            mix_labels(rows, mixed)
        if self.finishes:
            mix(images, mixed)
            mixed = ()
        shown = self.mixer.shown_as(label_mass, names)
        addresses = torch.tensor([(*place, name) for place, name in zip(places, shown, strict=True)])  # [B, 4]
        return HostBatch(images, rows, label_mass, tuple(keys), addresses, erased=tuple(erased), mixed=mixed)
