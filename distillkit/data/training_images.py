"""The training images of a run: decoded in the loader processes, or once for all, where they fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit.data.fast_decoding import FastImages
from distillkit.data.host_batches import host_batches
from distillkit.data.images_in_memory import (
    DecodedChunks,
    ImagesInMemory,
    bytes_in_memory,
    chunks_of,
    decoded,
    has_room,
    keeps_images,
)
from distillkit.data.orientation import upright
from distillkit.data.sources import Source, load_image

if TYPE_CHECKING:
    from PIL.Image import Image


class TrainingImages:
    """Decodes the images of a source in full, or as `fast` does.

    A set of at most `limit_mb` MB is kept in memory; its pixels are the same. `is_turned` is whether images are turned
    as their EXIF orientation says.
    """

    def __init__(self, source: Source, fast: FastImages | None, *, limit_mb: int, is_turned: bool) -> None:
        self.source = source
        self.memory: ImagesInMemory | None = None
        self._fast = fast
        self._limit_mb = limit_mb
        self._is_turned = is_turned
        self._is_decided = False

    def decode(self, view: int, index: int, group: int) -> Image:
        """The image at `index` for a group of repeats in a view, see `DecodedOnce`. Raises: as `load_image`."""
        kept = None if self.memory is None else self.memory.image(index)
        if kept is not None:
            return kept
        return load_image(self.source, index) if self._fast is None else self._fast(index, view, group)

    def keep(self, shown: int, workers: int) -> None:
        """Decode all images once, with `workers` loader processes, where they fit and are shown often enough.

        `shown` is the number of decodings that are still to come. Later calls change nothing.
        Raises: as `host_batches`.
        """
        if self._is_decided:
            return
        self._is_decided = True
        images = len(self.source)
        estimate = bytes_in_memory(self.source) if self._limit_mb and shown >= images else None
        if estimate is None or not keeps_images(estimate, self._limit_mb, shown=shown, images=images):
            return
        if has_room(estimate):
            jobs = list(chunks_of(images, estimate))
            workers = min(workers, len(jobs) - 1)  # a single job takes no longer in this process
            batches = host_batches(DecodedChunks(self._in_full), jobs, workers=workers, pin=False)
            self.memory = decoded(batches, images, self._limit_mb)

    def _in_full(self, index: int) -> Image | None:
        """The upright image; None for one that `fast` may decode at another scale."""
        image = load_image(self.source, index)
        image = upright(image) if self._is_turned else image
        return image if self._fast is None or self._fast.crop.scale(image.size, ()) == 1 else None
