"""The order of the training images: a pure function of `data.seed` and the epoch, for any number of processes.

An entry is an image and a repeat, which numbers its augmented versions. A window holds the entries of one optimiser
step. Entries 2k and 2k + 1 of a window are mixed with each other; processes and micro-batches split between pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

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

# With DeiT's repeated augmentation an epoch has a multiple of this many entries (deit/samplers.py).
_MULTIPLE = 256


@dataclass(frozen=True)
class Order:
    """The image order of every epoch.

    `labelled` [n] tells which images have a label. Labelled entries come first in a window, so that they are mixed
    with each other. Their share is that of the data, spread evenly over the windows, or `labeled_fraction`. If images
    run out, they are repeated with the next repeat numbers.
    An epoch has n entries; with repeated augmentation those are about n / repeats images, and n is rounded down to a
    multiple of 256 as DeiT does, but not to 0.
    With `views` the entries of an epoch, and its pairs, are those of its view; each epoch shuffles them. `mixed` is
    what mixing keeps together: the two entries of a "pair", or the "batch" of a window. A mixed image is then shown
    with the same partners whenever its view returns, so that its targets can be read from a bank.
    """

    labelled: NDArray[np.bool_]
    batch_size: int
    seed: int = 0
    repeats: int = 1
    labeled_fraction: float | None = None
    views: int | None = None
    mixed: Literal["no", "pair", "batch"] = "no"

    @classmethod
    def from_recipe(cls, datasets: DataSets, recipe: Recipe) -> Order:
        """The order that a recipe sets.

        Raises: DataError for data.labeled_fraction without labelled images.
        """
        data = recipe.data
        if data.labeled_fraction is not None and not datasets.labelled.any():
            raise DataError(
                f"data.labeled_fraction = {data.labeled_fraction:g} needs labelled images, and the data has no "
                "labels; leave it out"
            )
        return cls(
            datasets.labelled,
            batch_size=recipe.training.batch_size,
            seed=data.seed,
            repeats=recipe.augment.repeats,
            labeled_fraction=data.labeled_fraction,
            views=data.views,
            mixed=recipe.mixing.mode if recipe.mixing.mixup or recipe.mixing.cutmix else "no",
        )

    @cached_property
    def window(self) -> int:
        """Entries of one window: the batch size, or all entries if there are fewer."""
        return min(self.batch_size, self._entries)

    @cached_property
    def steps_per_epoch(self) -> int:
        return self._entries // self.window

    @cached_property
    def labelled_per_step(self) -> NDArray[np.int64]:
        """Number of labelled entries of each window, [steps_per_epoch]; the same in every epoch."""
        share = self._labelled_share
        # Cumulative counts in integers: rounding never adds up, so windows differ by at most one.
        marks = np.arange(self.steps_per_epoch + 1) * self.window * share.numerator // share.denominator
        return np.diff(marks)

    def epoch(self, number: int) -> Entries:
        """The windows of an epoch, [steps_per_epoch, window, 2]."""
        view = view_of(number, self.views)
        order = np.empty((self.steps_per_epoch, self.window, 2), np.int64)
        slots = np.arange(self.window) < self.labelled_per_step[:, None]  # [steps_per_epoch, window]
        for kind, here in (("labelled", slots), ("unlabelled", ~slots)):
            images = np.flatnonzero(self.labelled == (kind == "labelled"))
            entries = _sequence(images, int(here.sum()), self.repeats, generator(self.seed, "order", kind, view))
            order[here] = self._shuffled(entries, generator(self.seed, "shuffle", kind, number))
        return order

    def _shuffled(self, entries: Entries, draw: np.random.RandomState) -> Entries:
        """The entries [n, 2] of a view in the order of one epoch; what is mixed stays together, and so do repeats."""
        if self.views is None:
            return entries
        # Pairs would fall apart if a window had an odd number of labelled entries: entries then keep their order.
        if self.mixed == "pair" and (self.window % 2 or (self.labelled_per_step % 2).any()):
            return entries
        size = self.window if self.mixed == "batch" else 2 * self.repeats
        end = len(entries) // size * size
        groups = entries[:end].reshape(-1, size, 2)  # [groups, size, 2]
        shuffled = groups[draw.random_sample(len(groups)).argsort(kind="stable")]
        return np.concatenate([shuffled.reshape(-1, 2), entries[end:]])  # [n, 2]

    @property
    def _entries(self) -> int:
        images = len(self.labelled)
        if self.repeats == 1:
            return images
        return images // _MULTIPLE * _MULTIPLE or images  # fewer than 256 images would leave an empty epoch

    @property
    def _labelled_share(self) -> Fraction:
        natural = Fraction(int(self.labelled.sum()), len(self.labelled))
        if self.labeled_fraction is None or natural == 1:
            return natural
        return Fraction(str(self.labeled_fraction)).limit_denominator(1_000_000)


def steps_per_epoch(datasets: DataSets, recipe: Recipe) -> int:
    """Optimiser steps per epoch: samples divided by the batch size, rounded down, at least one."""
    if is_stream(datasets.train):
        return max(1, len(datasets.train) // recipe.training.batch_size)
    return Order.from_recipe(datasets, recipe).steps_per_epoch


def samples_per_step(datasets: DataSets, recipe: Recipe) -> int:
    """Samples of one optimiser step over all devices and micro-batches: the batch size, or all if there are fewer."""
    if is_stream(datasets.train):
        return recipe.training.batch_size
    return Order.from_recipe(datasets, recipe).window


def view_of(epoch: int, views: int | None) -> int:
    """The augmented view that an epoch shows: a new one, or one of `views` in turn."""
    return epoch if views is None else epoch % views


def rank_positions(samples: int, rank: int, world: int) -> NDArray[np.int64]:
    """Positions of a rank in a window of `samples`, [n]: every world-th pair.

    Taking pairs in turn gives each rank its share of the labelled entries, which come first, and puts the repeats of an
    image on different ranks.
    """
    return np.flatnonzero(np.arange(samples) // 2 % world == rank)


def _sequence(images: NDArray[np.int64], length: int, repeats: int, draw: np.random.RandomState) -> Entries:
    """`length` entries from seeded permutations of `images`, [length, 2]; neighbours are different images.

    Each pass over the images has its own repeat numbers, so no entry comes twice.
    """
    if length == 0:
        return np.empty((0, 2), np.int64)
    places, versions = _arrangement(len(images), repeats)
    passes = -(-length // len(places))
    ranks = draw.random_sample((passes, len(images))).argsort(axis=1, kind="stable")  # each row a permutation
    # An image may end one pass and start the next; mixing would then pair it with itself.
    if len(images) > 1:
        for number in range(1, passes):
            if ranks[number, 0] == ranks[number - 1, -1]:
                ranks[number, [0, 1]] = ranks[number, [1, 0]]
    indices = images[ranks[:, places[:length]]]  # [passes, entries]; a single pass may be shorter
    numbered = versions[:length] + repeats * np.arange(passes)[:, None]  # [passes, entries]
    return np.stack([indices.ravel(), numbered.ravel()], axis=1)[:length]  # [length, 2]


def _arrangement(images: int, repeats: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order of `images` permuted images with repeats: (a0 b0 a1 b1 a2 b2) (c0 d0 c1 d1 c2 d2) ...

    The repeats of an image stay close, in one window, and no image is its own neighbour. An odd last image joins the
    last group: (x0 y0 z0 x1 y1 z1 ...). Returns positions and repeats, [images * repeats] each.
    """
    paired = images if images % 2 == 0 else max(0, images - 3)
    pairs, last = np.arange(paired).reshape(-1, 1, 2), np.arange(paired, images)  # [pairs, 1, 2], [images - paired]
    places = np.concatenate([np.repeat(pairs, repeats, axis=1).ravel(), np.tile(last, repeats)])  # [images * repeats]
    each = np.arange(repeats)
    versions = np.concatenate([np.tile(np.repeat(each, 2), paired // 2), np.repeat(each, len(last))])
    return places, versions


def check_equal_micro_batches(samples: int, micro_batch_size: int | None, world: int) -> None:
    """Reject steps in which the ranks have different numbers of micro-batches: a sharded model would hang.

    Raises: RecipeError.
    """
    if micro_batch_size is None:
        return
    counts = [math.ceil(len(rank_positions(samples, rank, world)) / micro_batch_size) for rank in range(world)]
    if len(set(counts)) > 1:
        multiple = world * math.lcm(micro_batch_size, 2)  # 2: ranks are assigned pairs
        raise RecipeError(
            "teachers.sharded needs the same number of micro-batches in every process, and a step of "
            f"{samples} samples gives them {min(counts)} to {max(counts)} of {micro_batch_size}; set "
            f"training.batch_size to a multiple of {multiple}"
        )
