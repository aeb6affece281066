"""Image faults: their kinds, and which kind a decoder's error means.

Training, evaluation and `distillkit data check` all read images with `distillkit.data.sources.load_image`, so they find
the same faults. Anything that decodes without an error counts as an image: a JPEG with altered bytes usually does, and
formats without a checksum (BMP, PPM, plain TIFF) always do.
"""

from __future__ import annotations

import errno
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

from PIL import EpsImagePlugin, Image, UnidentifiedImageError

from distillkit.contracts.incidents import BrokenImage
from distillkit.errors import UnreadableImageError
from distillkit.messages.text import message_of, one_line
from distillkit.storage.untrusted import require_plain

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

_MAX_ASPECT_RATIO = 1000  # resizing the shorter side to the student's size would fill the memory
# Modes that Pillow clips to white or black: a 16-bit ramp comes out 99.6 % white, floats from 0 to 1 all black.
_CLIPPED_MODES = ("I", "F")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
# Pillow's messages for a truncated file; the last one is its message for every truncated WebP.
_TRUNCATED_MESSAGES = ("truncated", "not enough", "could not create decoder object")
_MISSING_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
_SYSTEM_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# torch raises this from a signal handler, so it can surface anywhere in the main thread, even while an image is read.
WORKER_DIED = re.compile(r"DataLoader worker \(pid(\(s\))? [\d, ]+\) (is killed by signal|exited)")


class ImageFault(Exception):  # noqa: N818 - the image's, not the program's
    """A fault of an image, raised by a source that knows its kind; the message completes "... cannot be read: "."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind: Kind = kind
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def open_rgb(file: Path | BinaryIO) -> Image.Image:
    """Read an image file as RGB.

    Raises: ImageFault, or any error of the decoder.
    """
    if isinstance(file, Path):
        require_regular_file(file)
    try:
        with Image.open(file) as image:
            return as_rgb(image)
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


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB with Pillow: an alpha channel is dropped, 16-bit colours become 8-bit.

    Raises: ImageFault if the pixels would be clipped.
    """
    return as_color(image, "RGB")


def as_color(image: Image.Image, color: str) -> Image.Image:
    """Convert an image to a Pillow mode of 8 bits per channel, as `as_rgb`.

    Raises: ImageFault if the pixels would be clipped.
    """
    check_convertible(image)
    image.load()
    try:
        return image.convert(color)
    except ValueError as error:
        reason = f"mode '{image.mode}' cannot be converted to {color}: {one_line(error)}"
        raise ImageFault("wrong-mode", reason) from error


def check_convertible(image: Image.Image) -> None:
    """Reject an image, before it is decoded, that has no pixels, does not fit into 8 bits or is an EPS program.

    Raises: ImageFault.
    """
    if image.format == "EPS":
        raise ImageFault("not-an-image", "it is an EPS file, a program for Ghostscript; convert it")
    if image.mode.partition(";")[0] in _CLIPPED_MODES:  # also I;16, I;16B, ...
        raise ImageFault("wrong-mode", f"pixels of mode '{image.mode}' would be clipped to 8 bits")
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
    return ImageFault("not-an-image", _reason(error))


def _first_bytes(file: Path | BinaryIO) -> bytes:
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return opened.read(8)
    file.seek(0)
    return file.read(8)
