"""In which order images are seen: a pure function of `data.seed` and the epoch, whoever reads which part of it.

An entry is an image and a repeat: which of its augmented versions is meant. A window is what one optimiser step sees.
Partners for mixing are the entries 2k and 2k + 1 of a window; processes and micro-batches split between pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distillkit.data.randomness import generator
from distillkit.data.sources import is_stream
from distillkit.errors import DataError, RecipeError

if TYPE_CHECKING:
    from distillkit.data.splits import DataSets
    from distillkit.recipe.schema import Recipe

Entries: TypeAlias = NDArray[np.int64]
"""[..., 2]: the index of an image, and its repeat."""

# DeiT's repeated augmentation lets an epoch see a multiple of this many entries (deit/samplers.py).
_MULTIPLE = 256


@dataclass(frozen=True)
class Order:
    """The order of every epoch.

    `labelled` says of each image whether it has a label, [n]. Within a window the labelled entries come first, so that
    they are mixed among themselves. Their share is the natural one, spread evenly over the windows, or
    `labeled_fraction`. Images that run out are gone through again, as further repeats.
    An epoch has n entries; with repeated augmentation those are about n / repeats images, and n is rounded down to a
    multiple of 256 as DeiT does, but not to 0. With `views` the order of an epoch repeats after so many epochs.
    """

    labelled: NDArray[np.bool_]
    batch_size: int
    seed: int = 0
    repeats: int = 1
    labeled_fraction: float | None = None
    views: int | None = None

    @classmethod
    def of(cls, datasets: DataSets, recipe: Recipe) -> Order:
        """The order that a recipe asks for.

        Raises: DataError for a labelled share where nothing is labelled.
        """
        data = recipe.data
        if data.labeled_fraction is not None and not datasets.labelled.any():
            raise DataError(
                f"data.labeled_fraction = {data.labeled_fraction:g} needs labelled images, and there are none; "
                "leave it out"
            )
        return cls(
            datasets.labelled,
            batch_size=recipe.training.batch_size,
            seed=data.seed,
            repeats=recipe.augment.repeats,
            labeled_fraction=data.labeled_fraction,
            # A mixed image is repeated only if it meets the same partner again.
            views=data.views if recipe.mixing.mixup or recipe.mixing.cutmix else None,
        )

    @cached_property
    def window(self) -> int:
        """Entries of one window: the batch, or all where there are fewer."""
        return min(self.batch_size, self._entries)

    @cached_property
    def steps_per_epoch(self) -> int:
        return self._entries // self.window

    @cached_property
    def labelled_per_step(self) -> NDArray[np.int64]:
        """How many entries of each window are labelled, [steps_per_epoch]; the same in every epoch."""
        share = self._labelled_share
        marks = np.arange(self.steps_per_epoch + 1) * self.window * share.numerator // share.denominator
        return np.diff(marks)

    def epoch(self, number: int) -> Entries:
        """The windows of an epoch, [steps_per_epoch, window, 2]."""
        number = view_of(number, self.views)
        order = np.empty((self.steps_per_epoch, self.window, 2), np.int64)
        slots = np.arange(self.window) < self.labelled_per_step[:, None]
        for kind, here in (("labelled", slots), ("unlabelled", ~slots)):
            images = np.flatnonzero(self.labelled == (kind == "labelled"))
            draw = generator(self.seed, "order", kind, number)
            order[here] = _sequence(images, int(here.sum()), self.repeats, draw)
        return order

    @property
    def _entries(self) -> int:
        images = len(self.labelled)
        if self.repeats == 1:
            return images
        return images // _MULTIPLE * _MULTIPLE or images

    @property
    def _labelled_share(self) -> Fraction:
        natural = Fraction(int(self.labelled.sum()), len(self.labelled))
        if self.labeled_fraction is None or natural == 1:
            return natural
        return Fraction(str(self.labeled_fraction)).limit_denominator(1_000_000)


def steps_per_epoch(datasets: DataSets, recipe: Recipe) -> int:
    """Optimiser steps of one epoch: the samples divided by the effective batch, rounded down, and at least one."""
    if is_stream(datasets.train):
        return max(1, len(datasets.train) // recipe.training.batch_size)
    return Order.of(datasets, recipe).steps_per_epoch


def samples_per_step(datasets: DataSets, recipe: Recipe) -> int:
    """Samples of one optimiser step, over all devices and micro-batches: the batch, or all where there are fewer."""
    if is_stream(datasets.train):
        return recipe.training.batch_size
    return Order.of(datasets, recipe).window


def view_of(epoch: int, views: int | None) -> int:
    """Which view of the images an epoch shows: its own, or one of `views` in turn."""
    return epoch if views is None else epoch % views


def share(samples: int, rank: int, world: int) -> NDArray[np.int64]:
    """The positions in a window of `samples` that one of `world` processes reads: every world-th pair.

    Dealing pairs out in turn gives each process its part of the labelled ones, which come first, and gives the repeats
    of an image to different processes.
    """
    return np.flatnonzero(np.arange(samples) // 2 % world == rank)


def _sequence(images: NDArray[np.int64], length: int, repeats: int, draw: np.random.RandomState) -> Entries:
    """`length` entries that go through seeded permutations of `images`; neighbours are different images.

    Each pass over the images has repeats of its own, so no entry comes twice.
    """
    if length == 0:
        return np.empty((0, 2), np.int64)
    places, versions = _arrangement(len(images), repeats)
    passes = -(-length // len(places))
    ranks = draw.random_sample((passes, len(images))).argsort(axis=1, kind="stable")
    if len(images) > 1:
        for number in range(1, passes):
            if ranks[number, 0] == ranks[number - 1, -1]:
                ranks[number, [0, 1]] = ranks[number, [1, 0]]
    indices = images[ranks[:, places[:length]]]  # a single pass may need less than the whole
    numbered = versions[:length] + repeats * np.arange(passes)[:, None]
    return np.stack([indices.ravel(), numbered.ravel()], axis=1)[:length]


def _arrangement(images: int, repeats: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where `images` permuted images stand when each is repeated: (a0 b0 a1 b1 a2 b2) (c0 d0 c1 d1 c2 d2) ...

    The repeats of an image stay close, in one window, and no image is its own neighbour. An odd one out at the end
    joins the last group: (x0 y0 z0 x1 y1 z1 ...). Returns positions and repeats, [images * repeats] each.
    """
    paired = images if images % 2 == 0 else max(0, images - 3)
    pairs, last = np.arange(paired).reshape(-1, 1, 2), np.arange(paired, images)
    places = np.concatenate([np.repeat(pairs, repeats, axis=1).ravel(), np.tile(last, repeats)])
    each = np.arange(repeats)
    versions = np.concatenate([np.tile(np.repeat(each, 2), paired // 2), np.repeat(each, len(last))])
    return places, versions


def check_equal_turns(samples: int, micro_batch_size: int | None, world: int) -> None:
    """Refuse a split of steps of `samples` in which one process would call a shared model more often than another.

    Raises: RecipeError.
    """
    if micro_batch_size is None:
        return
    turns = [math.ceil(len(share(samples, rank, world)) / micro_batch_size) for rank in range(world)]
    if len(set(turns)) > 1:
        whole = world * math.lcm(micro_batch_size, 2)
        raise RecipeError(
            f"teachers.sharded needs as many micro-batches in every process, and a step of {samples} samples gives "
            f"them {min(turns)} to {max(turns)} of {micro_batch_size}; set training.batch_size to a multiple of {whole}"
        )
