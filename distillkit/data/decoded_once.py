"""Repeated augmentation: the repeats of an image are made together, from one decoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from distillkit.data.order import Entries

if TYPE_CHECKING:
    from PIL.Image import Image


class DecodedOnce:
    """Decodes each image of a job once for all of its repeats, and keeps it until the last of them is made.

    `decode` gets the index of an image and the number of its group: `repeats` repeats, in their order, are one group.
    `micro_batches` are the entries [b, 2] of the job. An image that is not among them, which replaces an unreadable
    one, is not kept. An image that cannot be read is tried again for each repeat, so that each reports it.
    """

    def __init__(self, decode: Callable[[int, int], Image], repeats: int, micro_batches: Iterable[Entries]) -> None:
        self._decode = decode
        self._repeats = repeats
        uses = ((index, repeat // repeats) for entries in micro_batches for index, repeat in entries.tolist())
        self._uses_left = Counter(uses)
        self._kept: dict[tuple[int, int], Image] = {}

    def __call__(self, index: int, repeat: int) -> Image:
        """The image, which the caller must not change.

        Raises: as `decode`.
        """
        place = index, repeat // self._repeats
        image = self._kept.pop(place, None)
        image = self._decode(*place) if image is None else image
        self._uses_left[place] -= 1
        if self._uses_left[place] > 0:
            self._kept[place] = image
        return image


def jobs_of(micro_batches: Sequence[Entries], repeats: int) -> Iterator[tuple[Entries, ...]]:
    """The micro-batches of a step, [b, 2] each, as the jobs of loader processes: those that share images together.

    At most `repeats` are in one job. A job is held in memory as a whole; without repeats it is one micro-batch.
    """
    job: list[Entries] = []
    for entries in micro_batches:
        if job and (len(job) == repeats or not np.isin(job[-1][:, 0], entries[:, 0]).any()):
            yield tuple(job)
            job = []
        job.append(entries)
    yield tuple(job)
