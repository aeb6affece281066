"""Choose images fairly over the classes: those that are held out, and those whose labels are kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from distillkit.data.randomness import generator
from distillkit.data.selection import UNLABELLED
from distillkit.errors import DataError

Counts = NDArray[np.int64]


def held_out(labels: Counts, share: float, seed: int) -> Counts:
    """Indices of the images to hold out: `share` of every class, round(share * images) in all and at least one.

    Shapes: labels [n]. Images without a label are never chosen.
    Raises: DataError when nothing would be left to train on.
    """
    total = int((labels != UNLABELLED).sum())
    wanted = max(1, round(share * total))
    if wanted >= total:
        raise DataError(f"data.validation = {share:g} holds out all {total:,} labelled images; give a smaller share")
    return _choose(labels, lambda available: _in_proportion(wanted, available), seed, "held out")


def kept_labels(labels: Counts, wanted: int, seed: int) -> Counts:
    """Indices of the images whose labels are kept: equally many of every class as far as a class has them.

    Shapes: labels [n].
    Raises: DataError when there are fewer labels than wanted.
    """
    total = int((labels != UNLABELLED).sum())
    if wanted > total:
        raise DataError(
            f"data.labels = {wanted:,} is more than the {total:,} labelled training images; lower it or leave it out"
        )
    return _choose(labels, lambda available: _equally(wanted, available), seed, "kept labels")


def _choose(labels: Counts, quotas: Callable[[Counts], Counts], seed: int, purpose: str) -> Counts:
    """Draw as many of every class as `quotas` says, seeded class by class."""
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
    """Shares in proportion to what is available; what rounding leaves goes to the largest remainders."""
    exact = wanted * available / available.sum()
    quota: Counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(quota - exact, kind="stable")
    quota[largest[: wanted - quota.sum()]] += 1
    return quota


def _equally(wanted: int, available: Counts) -> Counts:
    """Equal shares; a class that has less gives all, and the others make up for it. The first classes give one more."""
    quota = np.zeros_like(available)
    while (missing := wanted - quota.sum()) > 0:
        open_classes = np.flatnonzero(quota < available)
        each = max(1, int(missing) // len(open_classes))
        for label in open_classes[:missing]:
            quota[label] += min(each, available[label] - quota[label])
    return quota
