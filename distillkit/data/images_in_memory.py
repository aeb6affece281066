"""Small sets of image files in memory: decoded once, before the loader processes start, and shared by them."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from multiprocessing import get_start_method
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from distillkit.data.image_faults import without_warnings
from distillkit.data.sources import image_file
from distillkit.errors import UnreadableImageError, UserError

if TYPE_CHECKING:
    from distillkit.data.sources import Source

SAMPLED = 32
"""Number of images whose size is read to estimate that of a set."""
USES = 2
"""How often a run has to show each image, at least, for its set to be kept: the first time it is decoded anyway."""
FREE_SHARE = 0.5
"""Share of the free memory of a machine that the images of all processes may take."""
_CHUNK_BYTES = 2**23  # of one tensor from a loader process
_MB = 10**6


def bytes_in_memory(source: Source) -> int | None:
    """Estimated bytes of the decoded images of a source; None if it names no files, or none can be read.

    A source without files decodes its images itself, usually from memory.
    """
    count = min(SAMPLED, len(source))
    sizes = [_file_size(source, (2 * number + 1) * len(source) // (2 * count)) for number in range(count)]
    found = [width * height * 3 for width, height in filter(None, sizes)]
    return sum(found) * len(source) // len(found) if found else None


def _file_size(source: Source, index: int) -> tuple[int, int] | None:
    """Width and height of an image file, read without its pixels; None if there is none, or it cannot be read."""
    try:
        with image_file(source, index) as file, without_warnings():
            if file is None:
                return None
            with Image.open(file) as image:
                return image.size
    except Exception:  # noqa: BLE001 - decoders raise errors of any type; the run reports the image
        return None


def keeps_images(estimate: int | None, limit_mb: int, *, shown: int, images: int) -> bool:
    """Whether a run of `shown` samples keeps a set of `images` images in memory, by its size and number of uses."""
    return estimate is not None and estimate <= limit_mb * _MB and shown >= USES * images


def has_room(estimate: int) -> bool:
    """Whether the free memory is enough for the images of all processes of this run on this machine."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return estimate * processes <= FREE_SHARE * psutil.virtual_memory().available


class ImagesInMemory:
    """Decoded images by index, as 8-bit RGB pixels. Written once and then only read, so that processes share them.

    A forked loader process shares the memory of the training process; others get it as torch's shared memory.
    """

    def __init__(self, images: int) -> None:
        self._chunks: list[Tensor] = []
        self._places = np.zeros((images, 4), np.int64)  # chunk, first byte, height, width; 0 x 0: not kept

    @property
    def bytes(self) -> int:
        """Bytes of all pixels."""
        return sum(chunk.numel() for chunk in self._chunks)

    def add(self, indices: Sequence[int], pixels: Tensor, sizes: Sequence[tuple[int, int]]) -> None:
        """Keep images; `pixels` [bytes] are theirs, one after the other, `sizes` their heights and widths."""
        start = 0
        for index, (height, width) in zip(indices, sizes, strict=True):
            self._places[index] = len(self._chunks), start, height, width
            start += height * width * 3
        # A copy: what a loader process made is in a file of limited space until it is released.
        kept = pixels.clone()
        if get_start_method() != "fork":
            kept.share_memory_()  # type: ignore[no-untyped-call]
        self._chunks.append(kept)

    def image(self, index: int) -> Image.Image | None:
        """The image, None if it is not kept."""
        chunk, start, height, width = self._places[index].tolist()
        if not height:
            return None
        pixels = self._chunks[chunk][start : start + height * width * 3]
        return Image.fromarray(pixels.view(height, width, 3).numpy())


def chunks_of(images: int, estimate: int) -> Iterator[range]:
    """The indices of all images in jobs of about `_CHUNK_BYTES` of pixels."""
    size = max(1, _CHUNK_BYTES * images // max(estimate, 1))
    return (range(start, min(start + size, images)) for start in range(0, images, size))


class DecodedChunks(Dataset[Any]):
    """Decodes the images of a job in a loader process; `decode` returns None for an image that is not kept."""

    def __init__(self, decode: Callable[[int], Image.Image | None]) -> None:
        self._decode = decode

    def __getitem__(self, indices: Sequence[int]) -> tuple[list[int], Tensor, list[tuple[int, int]]] | UserError:
        found: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = {}
        for index in indices:
            try:
                image = self._decode(index)
            except UnreadableImageError:  # reported by the run when it shows the image
                continue
            except UserError as error:
                return error
            if image is not None:
                found[index] = np.asarray(image)  # [H, W, 3]
        pixels = np.concatenate([each.ravel() for each in found.values()]) if found else np.empty(0, np.uint8)
        return list(found), torch.from_numpy(pixels), [each.shape[:2] for each in found.values()]


def decoded(batches: Generator[Any], images: int, limit_mb: int) -> ImagesInMemory:
    """Keep what `DecodedChunks` made, up to the limit."""
    memory = ImagesInMemory(images)
    with closing(batches) as made:
        for indices, pixels, sizes in made:
            if memory.bytes + pixels.numel() > limit_mb * _MB:
                break
            memory.add(indices, pixels, sizes)
    return memory
