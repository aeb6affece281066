"""Folders of images: the extensions of Pillow, and the sentence about other files."""

import pytest
from PIL import Image

from distillkit.data.image_folders import IMAGE_EXTENSIONS, shown_left_out

NEED_ANOTHER_PROGRAM = {"EPS", "WMF"}
NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG"}


def test_the_extensions_are_those_of_the_formats_that_pillow_decodes():
    readable = set(Image.registered_extensions().values()) & set(Image.OPEN) - NEED_ANOTHER_PROGRAM - NOT_DECODED
    extensions = {extension for extension, form in Image.registered_extensions().items() if form in readable}
    assert extensions | {".mpo"} == IMAGE_EXTENSIONS  # which Pillow reads as JPEG


@pytest.mark.parametrize(
    ("left_out", "shown"),
    [
        ({}, ""),
        ({".csv": 1}, "1 file that is not an image (1 .csv)"),
        (
            {".txt": 1_200, "without extension": 2},
            "1,202 files that are not images (1,200 .txt, 2 without extension)",
        ),
        ({".heic": 1}, "1 HEIF image (1 .heic), which Pillow cannot read: convert it to JPEG"),
        (
            {".heif": 1_200, ".txt": 2, ".heic": 3, ".jxl": 1},
            (
                "1,203 HEIF images (1,200 .heif, 3 .heic), which Pillow cannot read: convert them to JPEG; "
                "1 JPEG XL image (1 .jxl), which Pillow cannot read: convert it to JPEG; "
                "2 files that are not images (2 .txt)"
            ),
        ),
        (
            {f".{letter}": 1 for letter in "abcdefg"},
            "7 files that are not images (1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 2 more kinds)",
        ),
    ],
)
def test_files_that_are_not_images_are_counted_in_one_sentence(left_out, shown):
    assert shown_left_out(left_out) == shown
