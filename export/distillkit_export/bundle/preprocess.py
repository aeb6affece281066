"""Preprocessing of images for a bundle, identical to that of the run's evaluation, with only numpy and Pillow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from distillkit.contracts.decoding import Decoding
from distillkit.data.given_image import to_color
from distillkit.data.orientation import upright
from distillkit.errors import DataError, UnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit_export.bundle.manifest import InputCard

LARGEST_PIXELS = 2**28
"""Limit on the pixels of a resized image: an image of 1 x 60,000 pixels would otherwise become gigabytes."""


def prepare(image: Image.Image, card: InputCard) -> NDArray[Any]:
    """Preprocess one image for the exported file: convert, turn upright, resize, centre-crop, normalise.

    Shapes: returns [C, H, W] float32, normalised; or [H, W, C] uint8 for a file that normalises.
    Bit-identical to `distillkit.data.transforms.evaluation_transform` with the same version of Pillow.
    Raises: DataError for an image that cannot be decoded, would be clipped or has an extreme aspect ratio;
    UnavailableError if the bundle takes neither grey nor RGB images.
    """
    if card.color is None:
        raise UnavailableError(
            f"the bundle takes images of {len(card.mean)} channels, which image files do not have; "
            "prepare the arrays yourself and give them to the runtime"
        )
    image = to_color(image, card.color, Decoding.of(card))
    pixels = np.asarray(_centre(_resized(_turned(image, card), card), card))
    pixels = pixels.reshape(*card.image_size, -1)  # [H, W, C]; the array of a grey image is [H, W]
    if card.dtype == "uint8":
        return pixels
    scaled = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)  # [C, H, W]
    # float32 throughout, as in torch: float64 would not be bit-identical to the evaluation.
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (card.mean, card.std))  # [C, 1, 1]
    return np.ascontiguousarray((scaled - mean) / std)


def _turned(image: Image.Image, card: InputCard) -> Image.Image:
    return upright(image) if card.orientation == "exif" else image


def _resized(image: Image.Image, card: InputCard) -> Image.Image:
    """Resize the image to cover `image_size` ÷ `crop`, keeping its aspect ratio.

    Source: timm's evaluation transform; it rounds down for square sizes (torchvision's Resize) and to the nearest for
        others (its own ResizeKeepRatio).
    """
    height, width = (math.floor(side / card.crop) for side in card.image_size)
    if height == width:
        short, long = sorted(image.size)
        size = (height, int(height * long / short))
        size = size if image.width <= image.height else size[::-1]
    else:
        ratio = min(image.height / height, image.width / width)
        size = (round(image.width / ratio), round(image.height / ratio))
    if size[0] * size[1] > LARGEST_PIXELS:
        raise DataError(
            f"the aspect ratio of an image of {image.width} x {image.height} pixels is too extreme to resize"
        )
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling[card.interpolation.upper()])


def _centre(image: Image.Image, card: InputCard) -> Image.Image:
    """Centre-crop to `image_size`; half pixels are rounded to even, as in torchvision."""
    height, width = card.image_size
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
