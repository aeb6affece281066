"""EXIF orientation: images are turned as a viewer shows them, once, and damaged EXIF data are ignored."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from distillkit.data.orientation import upright

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))


def encoded(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    NOISE.save(file, form, exif=exif)
    return file


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_an_image_is_turned_as_pillow_turns_it(form, orientation):
    file = encoded(form, orientation)
    expected = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    found = upright(Image.open(file).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    np.testing.assert_array_equal(np.asarray(upright(found)), np.asarray(expected))


def test_an_orientation_in_xmp_data_counts():
    image = NOISE.copy()
    image.info["xmp"] = b'<x tiff:Orientation="6"/>'
    assert upright(image).size == (40, 60)


def test_an_image_without_metadata_stays_the_same_object():
    assert upright(NOISE) is NOISE


@pytest.mark.parametrize("data", [b"", b"junk", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\0\0"])
def test_damaged_exif_data_are_ignored(data):
    image = NOISE.copy()
    image.info["exif"] = data
    assert upright(image) is image
