"""Image faults: their kinds, and which kind a decoder's error means.

Training, evaluation and `distillkit data check` all read images with `distillkit.data.sources.load_image`, so they find
the same faults. Anything that decodes without an error counts as an image: a JPEG with altered bytes usually does, and
formats without a checksum (BMP, PPM, plain TIFF) always do.
"""

from __future__ import annotations

import errno
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, cast

import numpy as np
from PIL import EpsImagePlugin, Image, JpegImagePlugin, UnidentifiedImageError

from distillkit.contracts.decoding import AS_STORED, NO_BACKGROUND, Decoding
from distillkit.contracts.incidents import BrokenImage
from distillkit.errors import UnreadableImageError
from distillkit.messages.text import message_of, one_line
from distillkit.storage.untrusted import open_plain, require_plain

Kind: TypeAlias = Literal[
    "empty", "truncated", "not-an-image", "wrong-mode", "too-large", "missing", "forbidden", "damaged"
]

KINDS: dict[Kind, str] = {
    "empty": "the file has no bytes",
    "truncated": "the file ends before the image does",
    "not-an-image": "the file has no known image format",
    "wrong-mode": "the pixels cannot be converted to 8-bit RGB: 16-bit or 32-bit grey, floating point",
    "too-large": "more pixels than Pillow accepts (a decompression bomb) or than fit into memory",
    "missing": "the file is gone, or is a broken link",
    "forbidden": "no permission to read the file",
    "damaged": "any other error while the image is decoded",
}
"""Every kind of fault, and what it means."""

# Pillow renders an EPS file, under any file name, by starting Ghostscript: a program that runs a third-party file.
EpsImagePlugin.gs_binary = False
LARGEST_EXIF = 2**24
"""Bytes of EXIF in a JPEG. Pillow joins its segments in time in proportion to the square of their number."""
_EXIF_MARKER = 0xFFE1

_MAX_ASPECT_RATIO = 1000  # resizing the shorter side to the student's size would fill the memory
# Modes that Pillow clips to white or black: a 16-bit ramp comes out 99.6 % white, floats from 0 to 1 all black.
_CLIPPED_MODES = ("I", "F")
_FLOAT_REMEDY = "convert it to 8 bits"
_DEEP_REMEDY = f"{_FLOAT_REMEDY}, or train with data.grey16=scale, which scales 16-bit grey"
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
MAX_16_BIT = 2**16 - 1
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
_SIGNATURE_BYTES = 12
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
# Pillow's messages for a truncated file; the last one is its message for every truncated WebP.
_TRUNCATED_MESSAGES = ("truncated", "not enough", "could not create decoder object")
_MISSING_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
_SYSTEM_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# torch raises this from a signal handler, so it can surface anywhere in the main thread, even while an image is read.
WORKER_DIED = re.compile(r"DataLoader worker \(pid(\(s\))? [\d, ]+\) (is killed by signal|exited)")


def _limited_segment(image: JpegImagePlugin.JpegImageFile, marker: int) -> None:
    """Read a segment of a JPEG that may have EXIF, as Pillow does. Raises: ImageFault if there is too much of it."""
    JpegImagePlugin.APP(image, marker)
    if len(image.info.get("exif", b"")) > LARGEST_EXIF:
        raise ImageFault("damaged", f"it has more than {LARGEST_EXIF:,} bytes of EXIF")


JpegImagePlugin.MARKER[_EXIF_MARKER] = ("APP1", "application segment 1", cast("Any", _limited_segment))


class ImageFault(Exception):  # noqa: N818 - the image's, not the program's
    """A fault of an image, raised by a source that knows its kind; the message completes "... cannot be read: ".

    `remedy` is for someone who gave this image; `distillkit data check` has remedies for a data set.
    """

    def __init__(self, kind: Kind, reason: str, remedy: str = "") -> None:
        super().__init__(kind, reason, remedy)
        self.kind: Kind = kind
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return self.reason


def open_rgb(
    file: Path | BinaryIO, decoding: Decoding = AS_STORED, prepare: Callable[[Image.Image], None] | None = None
) -> Image.Image:
    """Read an image file as RGB. A data set passes `Decoding.of(data)`, so that the recipe's keys apply.

    `prepare` is called with the image before it is decoded.
    Raises: ImageFault, or any error of the decoder.
    """
    return open_color(file, "RGB", decoding, prepare)


def open_color(
    file: Path | BinaryIO, color: str, decoding: Decoding, prepare: Callable[[Image.Image], None] | None = None
) -> Image.Image:
    """Read an image file, its first frame, in a Pillow mode of 8 bits per channel; `prepare` as in `open_rgb`.

    Raises: as `open_rgb`.
    """
    if isinstance(file, Path):
        require_regular_file(file)
    try:
        with Image.open(file) as image:
            if prepare is not None:
                prepare(image)
            return as_color(image, color, decoding)
    except UnidentifiedImageError as error:
        raise _unidentified(_first_bytes(file), error) from error


def require_regular_file(file: Path) -> None:
    """Reject a pipe or a device, which may never end.

    Raises: ImageFault; OSError for a path that cannot be inspected.
    """
    try:
        require_plain(file)
    except ValueError as error:
        raise ImageFault("not-an-image", f"it {error}") from None


def as_rgb(image: Image.Image, decoding: Decoding = AS_STORED) -> Image.Image:
    """Convert an image to RGB: transparency and 16-bit grey as in `decoding`, 16-bit colours become 8-bit.

    Raises: ImageFault if the pixels would be clipped.
    """
    return as_color(image, "RGB", decoding)


def as_color(image: Image.Image, color: str, decoding: Decoding = AS_STORED) -> Image.Image:
    """Convert an image to a Pillow mode of 8 bits per channel, as `as_rgb`.

    Raises: ImageFault if the pixels would be clipped.
    """
    check_convertible(image, decoding)
    image.load()
    try:
        if _is_deep(image):
            image = _scaled(image)
        if decoding.background != NO_BACKGROUND and _is_transparent(image):
            image = _composited(image, decoding.background)
        return image.convert(color)
    except ValueError as error:
        reason = f"mode '{image.mode}' cannot be converted to {color}: {one_line(error)}"
        raise ImageFault("wrong-mode", reason) from error


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def _composited(image: Image.Image, background: str) -> Image.Image:
    """The image on a background colour, in RGBA with its metadata."""
    layer = image.convert("RGBA")
    layer.paste(Image.alpha_composite(Image.new("RGBA", layer.size, background), layer))
    return layer


def _is_deep(image: Image.Image) -> bool:
    return image.mode.partition(";")[0] == "I"  # I, I;16, I;16B, ...


def _scaled(image: Image.Image) -> Image.Image:
    """A 16-bit grey image in 8 bits, with its metadata; mode I, which Pillow uses for some of them, has 32 bits."""
    pixels = np.asarray(image).astype(np.int64)  # [H, W]
    if pixels.min() < 0 or pixels.max() > MAX_16_BIT:
        reason = f"pixels of mode '{image.mode}' from {pixels.min():,} to {pixels.max():,} are not 16-bit grey"
        raise ImageFault("wrong-mode", reason)
    scaled = Image.fromarray(((pixels * 255 + MAX_16_BIT // 2) // MAX_16_BIT).astype(np.uint8))
    scaled.info = {key: value for key, value in image.info.items() if key != "transparency"}  # a 16-bit value
    return scaled


def check_convertible(image: Image.Image, decoding: Decoding = AS_STORED) -> None:
    """Reject an image, before it is decoded, that has no pixels, does not fit into 8 bits or is an EPS program.

    Raises: ImageFault.
    """
    if image.format == "EPS":
        raise ImageFault("not-an-image", "it is an EPS file, a program for Ghostscript; convert it")
    # Also I;16, I;16B, ...
    if image.mode.partition(";")[0] in _CLIPPED_MODES and not (_is_deep(image) and decoding.grey16 == "scale"):
        reason = f"pixels of mode '{image.mode}' would be clipped to 8 bits"
        raise ImageFault("wrong-mode", reason, _DEEP_REMEDY if _is_deep(image) else _FLOAT_REMEDY)
    if 0 in image.size:
        raise ImageFault("damaged", "it has no pixels")


def check_aspect_ratio(image: Image.Image) -> Image.Image:
    """The image, unless its aspect ratio is too extreme to resize.

    Raises: ImageFault.
    """
    if max(image.size) > _MAX_ASPECT_RATIO * min(image.size):
        width, height = image.size
        raise ImageFault(
            "too-large",
            f"its aspect ratio is too extreme to resize ({width:,} x {height:,} pixels; at most "
            f"1:{_MAX_ASPECT_RATIO:,})",
        )
    return image


def is_plain(image: Image.Image) -> bool:
    """Whether all pixels of an RGB image have the same colour."""
    return all(low == high for low, high in cast("tuple[tuple[int, int], ...]", image.getextrema()))


def fault_of(error: Exception) -> ImageFault | None:
    """The image fault that an error means; None for a system error, such as too many open files."""
    if isinstance(error, ImageFault):
        return error
    if (isinstance(error, OSError) and error.errno in _SYSTEM_ERRNOS) or WORKER_DIED.search(str(error)):
        return None
    return ImageFault(_kind_of(error), _reason(error))


def broken_image(split: str, error: UnreadableImageError) -> BrokenImage:
    """The record of an unreadable image in a run's incident log."""
    return BrokenImage(split, error.key, error.kind, error.reason)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings (many pixels, dropped transparency), which are not faults."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _reason(error: Exception) -> str:
    """The error's message, without the memory address that Pillow prints for a file object."""
    message = one_line(error)
    return KINDS["not-an-image"] if isinstance(error, UnidentifiedImageError) and "<" in message else message


def _kind_of(error: Exception) -> Kind:
    message = message_of(error).lower()
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return "too-large"
    if isinstance(error, PermissionError):
        return "forbidden"
    if isinstance(error, OSError) and error.errno in _MISSING_ERRNOS:
        return "missing"
    if isinstance(error, UnidentifiedImageError | IsADirectoryError):
        return "not-an-image"
    if isinstance(error, EOFError) or any(words in message for words in _TRUNCATED_MESSAGES):
        return "truncated"
    return "damaged"


def _unidentified(first_bytes: bytes, error: Exception) -> ImageFault:
    """The fault of a file that Pillow does not identify: empty, damaged, or not an image."""
    if not first_bytes:
        return ImageFault("empty", KINDS["empty"])
    if first_bytes.startswith(_SIGNATURES):
        return ImageFault("damaged", f"{_reason(error)}, although its first bytes are those of one")
    unread = _unread_format(first_bytes)
    if unread:
        return ImageFault("not-an-image", f"Pillow cannot read {unread}; convert it to JPEG")
    return ImageFault("not-an-image", _reason(error))


def _unread_format(first_bytes: bytes) -> str | None:
    """The format of an image that Pillow does not read by itself; None for other files."""
    if first_bytes[4:8] == b"ftyp" and first_bytes[8:12] in _HEIF_BRANDS:
        return "HEIF"
    return "JPEG XL" if first_bytes.startswith(_JPEG_XL) else None


def _first_bytes(file: Path | BinaryIO) -> bytes:
    if isinstance(file, Path):
        with open_plain(file) as opened:
            return opened.read(_SIGNATURE_BYTES)
    file.seek(0)
    return file.read(_SIGNATURE_BYTES)
