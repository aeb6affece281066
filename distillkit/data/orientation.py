"""EXIF orientation: how the stored pixels are to be turned or mirrored for display."""

from __future__ import annotations

from PIL import Image

from distillkit.data.image_faults import without_warnings

_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS = (Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90)
# Where Pillow keeps EXIF data, and XMP data, which may have an orientation too.
_METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation shows it. Damaged EXIF data are ignored.

    The result has no EXIF data, so it is not turned again. Pillow's `exif_transpose` also rewrites the EXIF data,
    and fails if it cannot.
    """
    turn = _turn(image)
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {key: value for key, value in image.info.items() if key not in _METADATA}
    return turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of `upright(image)`, which need not be decoded."""
    width, height = image.size
    return (height, width) if _turn(image) in _SWAPS else (width, height)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How the image is to be turned, None if it is upright or its EXIF data are damaged."""
    if not any(key in image.info for key in _METADATA):
        return None
    try:
        with without_warnings():
            return _TURNS.get(image.getexif().get(_TAG, 1))
    except Exception:  # noqa: BLE001 - as decoders, it raises many types
        return None
