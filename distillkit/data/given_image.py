"""Images given in Python: image files, Pillow images and arrays of pixels, with the checks of image files."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np
from PIL import Image

from distillkit.contracts.decoding import AS_STORED, Decoding
from distillkit.data.image_faults import (
    ImageFault,
    as_color,
    check_aspect_ratio,
    open_color,
    without_warnings,
)
from distillkit.errors import DataError
from distillkit.messages.text import one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import TypeIs

GivenImage: TypeAlias = "str | PathLike[str] | Image.Image | NDArray[np.uint8]"
"""An image file, a Pillow image, or pixels [H, W, 3] or [H, W] from 0 to 255."""

CHANNELS = (1, 3, 4)
"""Number of channels of an array that is an image: grey, RGB, RGB with alpha."""


def as_several(images: Iterable[GivenImage] | GivenImage) -> Iterable[GivenImage]:
    """The images to iterate over: a single image becomes a list of one.

    Shapes: an array [H, W] or [H, W, C], with C in CHANNELS, is one image; [B, H, W] and [B, H, W, C] are B images.
    Raises: DataError for an object that is neither an image nor an iterable of images, and for an array that may be one
        image [C, H, W].
    """
    if is_path(images) or isinstance(images, Image.Image):
        return [images]
    if isinstance(images, np.ndarray):
        if images.ndim == 0 or images.size == 0 or _may_be_channels_first(images):
            _refuse(images)
        return [images] if _is_one_image(images) else images
    # A file and bytes are iterable too, but not over images.
    if isinstance(images, bytes | bytearray | memoryview) or hasattr(images, "read") or not hasattr(images, "__iter__"):
        _refuse(images)
    return images


def is_path(image: object) -> TypeIs[str | PathLike[str]]:
    """Whether an image is given as the path of a file."""
    return isinstance(image, str | PathLike)


def read_image(path: Path, color: str, decoding: Decoding = AS_STORED) -> Image.Image:
    """Open an image file as in training: its first frame, converted to `color`, "RGB" or "L".

    Raises: DataError with the image's path.
    """
    try:
        with without_warnings():
            return open_color(path, color, decoding)
    except FileNotFoundError as error:
        raise DataError(f"image '{path}' does not exist") from error
    # Decoders raise many types: OSError, SyntaxError, struct.error, DecompressionBombError, ...
    except Exception as error:
        raise DataError(f"image '{path}' cannot be read: {_reason(error)}") from error


def as_pillow(image: object) -> Image.Image:
    """A Pillow image or an array as a Pillow image.

    Shapes: an array is [H, W] or [H, W, C], with C in CHANNELS, uint8.
    Raises: DataError for any other object, and for an array without pixels.
    """
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray):
        _refuse(image)
    if image.dtype != np.uint8 or not image.size or not _is_one_image(image):
        _refuse(image)
    return Image.fromarray(image[:, :, 0] if image.shape[2:] == (1,) else image)


def to_color(image: Image.Image, color: str, decoding: Decoding = AS_STORED) -> Image.Image:
    """Convert a Pillow image to `color`, "RGB" or "L".

    Raises: DataError if the conversion would lose information, or the image cannot be decoded.
    """
    try:
        with without_warnings():
            return as_color(image, color, decoding)
    except Exception as error:  # as above
        raise DataError(f"the image cannot be used: {_reason(error)}") from error


def require_resizable(image: Image.Image) -> Image.Image:
    """The image, unless its aspect ratio is too extreme to resize, which would fill the memory.

    Raises: DataError.
    """
    try:
        return check_aspect_ratio(image)
    except ImageFault as fault:
        raise DataError(f"the image cannot be used: {fault.reason}") from fault


def _reason(error: Exception) -> str:
    """The message of an error, with the remedy of an image fault."""
    remedy = error.remedy if isinstance(error, ImageFault) else ""
    return f"{one_line(error)}; {remedy}" if remedy else one_line(error)


def _is_one_image(array: NDArray[Any]) -> bool:
    """Whether an array has the shape of an image, [H, W] or [H, W, C] with C in CHANNELS."""
    return array.ndim == 2 or (array.ndim == 3 and array.shape[2] in CHANNELS)


def _may_be_channels_first(array: NDArray[Any]) -> bool:
    """Whether an array that is not an image [H, W, C] may be one with its channels first, [C, H, W]."""
    return array.ndim == 3 and array.shape[0] in CHANNELS and not _is_one_image(array)


def _refuse(image: Any) -> NoReturn:
    """Raise the DataError for an object that is not an image."""
    if isinstance(image, np.ndarray):
        last = ", with the channels last: array.transpose(1, 2, 0)" if _may_be_channels_first(image) else ""
        raise DataError(
            f"an array of shape {list(image.shape)} and type {image.dtype} is not an image; "
            f"give pixels [H, W, 3] or [H, W] of type uint8{last}"
        )
    what = "None" if image is None else f"an object of type {type(image).__name__}"
    is_file = isinstance(image, bytes | bytearray | memoryview) or hasattr(image, "read")
    remedy = "; open the content of a file with PIL.Image.open(io.BytesIO(content))" if is_file else ""
    raise DataError(
        f"{what} is not an image; give a path, a Pillow image, or pixels [H, W, 3] or [H, W] of type uint8{remedy}"
    )
