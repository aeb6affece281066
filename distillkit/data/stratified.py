"""Stratified sampling over the classes: images to hold out, and images whose labels are kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from distillkit.data.randomness import generator
from distillkit.data.selection import UNLABELLED
from distillkit.errors import DataError

Counts = NDArray[np.int64]


def held_out(labels: Counts, share: float, seed: int) -> Counts:
    """Indices of the images to hold out: `share` of every class, round(share * images) in total, at least one.

    Shapes: labels [n]. Unlabelled images are never chosen.
    Raises: DataError if no labelled image would be left for training.
    """
    total = int((labels != UNLABELLED).sum())
    wanted = max(1, round(share * total))
    if total == 1:
        raise DataError(
            "there is a single labelled image, so none can be held out for validation; add labelled images, name a "
            "validation set, or train without one: --set data.validation=0"
        )
    if wanted >= total:
        raise DataError(
            f"data.validation = {share:g} holds out all {total:,} labelled images; use a smaller share, such as "
            "--set data.validation=0.1"
        )
    return _choose(labels, lambda available: _in_proportion(wanted, available), seed, "held out")


def kept_labels(labels: Counts, wanted: int, seed: int) -> Counts:
    """Indices of the images whose labels are kept: the same number of every class, as far as a class has them.

    Shapes: labels [n].
    Raises: DataError if there are fewer labels than `wanted`.
    """
    total = int((labels != UNLABELLED).sum())
    if wanted > total:
        raise DataError(
            f"data.labels = {wanted:,} is more than the {total:,} labelled training images; "
            "use a smaller --labels or leave it out"
        )
    return _choose(labels, lambda available: _equally(wanted, available), seed, "kept labels")


def _choose(labels: Counts, quotas: Callable[[Counts], Counts], seed: int, purpose: str) -> Counts:
    """Draw the number of images per class that `quotas` returns. Shapes: labels [n].

    Each class has its own seed, so that its draw does not depend on the other classes.
    """
    known = np.flatnonzero(labels != UNLABELLED)
    by_class = known[np.argsort(labels[known], kind="stable")]
    available = np.bincount(labels[known])
    quota = quotas(available)
    drawn = [
        generator(seed, purpose, label).permutation(members)[: quota[label]]
        for label, members in enumerate(np.split(by_class, np.cumsum(available)[:-1]))
    ]
    chosen: Counts = np.sort(np.concatenate(drawn))
    return chosen


def _in_proportion(wanted: int, available: Counts) -> Counts:
    """Quotas [K] in proportion to the class sizes; the rest goes to the largest remainders."""
    exact = wanted * available / available.sum()
    quota: Counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(quota - exact, kind="stable")  # stable: equal remainders go to the first classes
    quota[largest[: wanted - quota.sum()]] += 1
    return quota


def _equally(wanted: int, available: Counts) -> Counts:
    """Equal quotas [K]; a smaller class gives all it has and the others fill up. The first classes give one more."""
    quota = np.zeros_like(available)
    while (missing := wanted - quota.sum()) > 0:
        open_classes = np.flatnonzero(quota < available)
        each = max(1, int(missing) // len(open_classes))  # 1: fewer labels may be missing than classes are open
        for label in open_classes[:missing]:
            quota[label] += min(each, available[label] - quota[label])
    return quota
