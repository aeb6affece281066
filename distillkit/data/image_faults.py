"""What can be wrong with an image, and which fault an error means.

Every image goes through `distillkit.data.sources.load_image`, in training, in evaluation and in `distillkit data
check`, so all of them find the same faults. What decodes without an error is an image: a JPEG with altered bytes mostly
does, and formats without a checksum (BMP, PPM, plain TIFF) always do.
"""

from __future__ import annotations

import errno
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
    "not-an-image": "the file is of no known image format",
    "wrong-mode": "the pixels have no meaning in 8-bit RGB: 16-bit or 32-bit greys, floating-point numbers",
    "too-large": "more pixels than Pillow takes for an image and not an attack, or than the memory holds",
    "missing": "the file is gone, or is a link to nothing",
    "forbidden": "the file may not be read",
    "damaged": "anything else that fails while the image is decoded",
}
"""Every kind of fault, and what it means."""

# Pillow draws an EPS file, whatever its name, by starting Ghostscript: a program, on a file of a third party.
EpsImagePlugin.gs_binary = False

_MOST_UNLIKE = 1000  # times as long as wide: resized until it covers the student's size, it would fill the memory
# What Pillow clips to white, or to black: a 16-bit ramp comes out 99.6 % white, floats from 0 to 1 all black.
_CLIPPED = ("I", "F")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
# How the decoders of Pillow say that a file ends too early; the last is what it says of every WebP that was cut off.
_CUT_OFF = ("truncated", "not enough", "could not create decoder object")
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ImageFault(Exception):  # noqa: N818 - the image's, not the program's
    """What a source may raise of an image where it knows the kind; the message is the end of a sentence."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind: Kind = kind
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def open_rgb(file: Path | BinaryIO) -> Image.Image:
    """The image in a file, in RGB.

    Raises: ImageFault, or whatever the decoder raises.
    """
    if isinstance(file, Path):
        _require_plain(file)
    try:
        with Image.open(file) as image:
            return as_rgb(image)
    except UnidentifiedImageError as error:
        raise _unidentified(_beginning(file), error) from error


def _require_plain(file: Path) -> None:
    """Refuse a pipe or a device, which may never end."""
    try:
        require_plain(file)
    except ValueError as error:
        raise ImageFault("not-an-image", f"it {error}") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """An image in RGB, as Pillow converts it: an alpha channel is dropped, and 16 bits of a colour become 8.

    Raises: ImageFault where that would lose what the pixels mean.
    """
    check_convertible(image)
    image.load()
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageFault("wrong-mode", f"pixels of mode '{image.mode}' do not become RGB: {one_line(error)}") from error


def check_convertible(image: Image.Image) -> None:
    """Refuse an image, before it is decoded, that 8 bits would not hold or that is a program.

    Raises: ImageFault.
    """
    if image.format == "EPS":
        raise ImageFault("not-an-image", "it is an EPS file, a program for Ghostscript; convert it")
    if image.mode.partition(";")[0] in _CLIPPED:
        raise ImageFault("wrong-mode", f"pixels of mode '{image.mode}' would be clipped to 8 bits")


def check_shape(image: Image.Image) -> Image.Image:
    """The image, where its sides are not so unlike that it cannot be resized until the shorter one fits.

    Raises: ImageFault.
    """
    if max(image.size) > _MOST_UNLIKE * min(image.size):
        width, height = image.size
        raise ImageFault("too-large", f"its sides of {width:,} x {height:,} pixels are too unlike to be resized")
    return image


def fault_of(error: Exception) -> ImageFault | None:
    """The fault that an error of a source means; None where the machine is at fault and not the image."""
    if isinstance(error, ImageFault):
        return error
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return None
    return ImageFault(_kind_of(error), _reason(error))


def broken_image(split: str, error: UnreadableImageError) -> BrokenImage:
    """What the ledger of a run says of an image."""
    return BrokenImage(split, error.key, error.kind, error.reason)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Let Pillow decode in silence: what it warns of (many pixels, a dropped transparency) is no fault."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _reason(error: Exception) -> str:
    """The error's message, without the memory address by which Pillow names a file that has no name."""
    message = one_line(error)
    return KINDS["not-an-image"] if isinstance(error, UnidentifiedImageError) and "<" in message else message


def _kind_of(error: Exception) -> Kind:
    message = message_of(error).lower()
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return "too-large"
    if isinstance(error, PermissionError):
        return "forbidden"
    if isinstance(error, OSError) and error.errno in _GONE:
        return "missing"
    if isinstance(error, UnidentifiedImageError | IsADirectoryError):
        return "not-an-image"
    if isinstance(error, EOFError) or any(words in message for words in _CUT_OFF):
        return "truncated"
    return "damaged"


def _unidentified(beginning: bytes, error: Exception) -> ImageFault:
    """What is wrong with a file that Pillow does not know."""
    if not beginning:
        return ImageFault("empty", KINDS["empty"])
    if beginning.startswith(_SIGNATURES):
        return ImageFault("damaged", f"{_reason(error)}, although it begins like one")
    return ImageFault("not-an-image", _reason(error))


def _beginning(file: Path | BinaryIO) -> bytes:
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return opened.read(8)
    file.seek(0)
    return file.read(8)
