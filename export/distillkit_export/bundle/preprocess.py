"""From an image file to what a bundle takes, as the run's own evaluation prepares it, with numpy and Pillow alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from distillkit.data.image_faults import check_convertible, without_warnings
from distillkit.errors import DataError, UnavailableError
from distillkit.messages.text import one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit_export.bundle.manifest import InputCard

LARGEST_PIXELS = 2**28
"""Of an image after its resizing: a strip of 1 x 60,000 pixels would otherwise become gigabytes."""


def read_image(path: Path, color: str) -> Image.Image:
    """Open an image as the training side does: its first frame, in `color`, whatever its EXIF says of rotation.

    Raises: DataError that names the image.
    """
    try:
        with without_warnings(), Image.open(path) as image:
            check_convertible(image)
            return image.convert(color)
    except FileNotFoundError as error:
        raise DataError(f"image '{path}' does not exist") from error
    # Decoders raise whatever they like: OSError, SyntaxError, struct.error, DecompressionBombError, ...
    except Exception as error:
        reason = one_line(error)
        raise DataError(f"image '{path}' cannot be read: {reason}") from error


def prepare(image: Image.Image, card: InputCard) -> NDArray[Any]:
    """One image as the exported file takes it.

    Shapes: [C, H, W] float32, normalised; or [H, W, C] uint8 where the file normalises by itself.
    Equal, bit for bit, to `distillkit.data.transforms.evaluation_transform` for the same Pillow.
    Raises: DataError for an image that is too long to be resized; UnavailableError where the bundle takes neither grey
    nor RGB images.
    """
    if card.color is None:
        raise UnavailableError(
            f"the bundle takes {len(card.mean)} channels and no image file says what they are; "
            "prepare the numbers yourself and give them to the runtime"
        )
    pixels = np.asarray(_centre(_resized(image.convert(card.color), card), card))
    pixels = pixels.reshape(*card.image_size, -1)  # [H, W, C], a grey image has no third dimension
    if card.dtype == "uint8":
        return pixels
    scaled = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)  # [C, H, W]
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (card.mean, card.std))
    return np.ascontiguousarray((scaled - mean) / std)


def _resized(image: Image.Image, card: InputCard) -> Image.Image:
    """Resize until the image covers `image_size` ÷ `crop`, aspect kept.

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
        raise DataError(f"an image of {image.width} x {image.height} pixels is too long to be cut to a model's size")
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling[card.interpolation.upper()])


def _centre(image: Image.Image, card: InputCard) -> Image.Image:
    """The centre of an image that covers `image_size`; half pixels go to the even side, as torchvision has it."""
    height, width = card.image_size
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
