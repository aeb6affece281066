"""Replacements for unreadable training images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from distillkit.data.randomness import seed_of

ATTEMPTS = 100
"""Number of images tried per replacement. With nine in ten images broken, one in 38,000 replacements fails."""


@dataclass(frozen=True)
class Replacements:
    """Draws replacement images: a pure function of `seed`, the image, its view and repeat, and the attempt.

    `labelled` [n] tells which images have a label. A labelled image replaces a labelled one, so that the number of
    labelled images in a window stays the same. A replacement keeps its own label and augmentation.
    """

    labelled: NDArray[np.bool_]
    seed: int

    def candidates(self, index: int, key: str, place: tuple[int, int]) -> Iterator[int]:
        """The images to try in place of the one at `index`; `place` is its view and its repeat."""
        pool = self._labelled if self.labelled[index] else self._unlabelled
        for attempt in range(ATTEMPTS):
            yield int(pool[seed_of(self.seed, "substitute", *place, key, attempt) % len(pool)])

    @cached_property
    def _labelled(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.labelled)

    @cached_property
    def _unlabelled(self) -> NDArray[np.int64]:
        return np.flatnonzero(~self.labelled)
