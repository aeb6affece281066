"""`data.decode = "fast"`: JPEG files decoded at a reduced scale where the crops allow it, and a faster resize.

The crops, flips and other random choices are those of "exact"; the pixels differ by rounding and by interpolation.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from distillkit.contracts.decoding import Decoding
from distillkit.data.image_faults import open_rgb
from distillkit.data.orientation import upright_size
from distillkit.data.randomness import sample_name, seed_of
from distillkit.data.sources import image_file, load_image

if TYPE_CHECKING:
    from distillkit.data.sources import Source

CropBox: TypeAlias = tuple[int, int, int, int]
"""Top, left, height and width, in pixels."""

SCALES = (8, 4, 2)
"""Divisors of width and height at which libjpeg decodes with less arithmetic, largest first."""
_REDUCED = "distillkit_reduced"  # in `Image.info`: (width, height) of the upright image in full, and the scale


class FastCrop:
    """timm's random resized crop, resized by torch, of an image that may have been decoded at a reduced scale.

    `timm_crop` draws the crop from Python's global generator, for the full size of the image. `mode` is "bicubic" or
    "bilinear".
    Differs from timm's: torch's kernel for 8-bit pixels has weights of 16 bits, Pillow's of 22, so that values differ
    by rounding, and the last bit may depend on the processor; the crop of a reduced image is rounded to its pixels.
    """

    def __init__(self, timm_crop: Any, mode: str) -> None:
        self._timm_crop = timm_crop
        self._mode = mode

    def __call__(self, image: Image.Image) -> Image.Image:
        full, scale = image.info.get(_REDUCED, (image.size, 1))
        top, left, height, width = self._draw(full)
        box = (left // scale, top // scale, -(-(left + width) // scale), -(-(top + height) // scale))
        # In this order: torch then knows that the channels are last, and leaves them there, which Pillow needs.
        pixels = torch.from_numpy(np.array(image.crop(box)))[None].permute(0, 3, 1, 2)  # [1, 3, H, W]
        resized = functional.interpolate(pixels, size=self._timm_crop.size, mode=self._mode, antialias=True)
        return Image.fromarray(resized[0].permute(1, 2, 0).numpy())

    def scale(self, full: tuple[int, int], seeds: Iterable[int]) -> int:
        """The largest of `SCALES` at which none of the crops has fewer pixels than the result, 1 for full size.

        `full` is the (width, height) of the upright image; `seeds` are those of Python's generator for the crops.
        """
        largest = self._scale_of((0, 0, full[1], full[0]))
        if largest == 1:
            return 1
        state = random.getstate()
        try:
            for seed in seeds:
                random.seed(seed)
                largest = min(largest, self._scale_of(self._draw(full)))
        finally:
            random.setstate(state)
        return largest

    def _draw(self, full: tuple[int, int]) -> CropBox:
        # timm asks the image for its size only; a tensor on the meta device has no pixels.
        sized = torch.empty(3, full[1], full[0], device="meta")
        box: CropBox = self._timm_crop.get_params(sized, self._timm_crop.scale, self._timm_crop.ratio)
        return box

    def _scale_of(self, box: CropBox) -> int:
        height, width = self._timm_crop.size
        return next((scale for scale in SCALES if box[2] >= scale * height and box[3] >= scale * width), 1)


@dataclass(frozen=True)
class FastImages:
    """Decodes the images of a source for `crop`, those of JPEG files at the scale that it allows.

    The scale is that of all `repeats` of an image in a view, so that it does not depend on which of them are made
    together. A source without `file` decodes its images itself, in full.
    """

    source: Source
    decoding: Decoding
    crop: FastCrop
    is_turned: bool
    seed: int
    repeats: int

    def __call__(self, index: int, view: int, group: int) -> Image.Image:
        """The image for the repeats from `group` times `repeats` on. Raises: as `load_image`."""
        key = self.source.key(index)
        repeats = range(group * self.repeats, (group + 1) * self.repeats)
        seeds = [seed_of(self.seed, *sample_name(view, repeat, key)) for repeat in repeats]
        return load_image(self.source, index, partial(self._read, seeds))

    def _read(self, seeds: list[int], index: int) -> Image.Image:
        with image_file(self.source, index) as file:
            if file is None:
                return self.source.image(index)
            return open_rgb(file, self.decoding, partial(self._reduce, seeds))

    def _reduce(self, seeds: list[int], image: Image.Image) -> None:
        """Set the scale at which an image that is not decoded yet will be decoded."""
        if image.format != "JPEG":
            return
        full = upright_size(image) if self.is_turned else image.size
        scale = self.crop.scale(full, seeds)
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
            image.info[_REDUCED] = (full, scale)
