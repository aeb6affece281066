"""Transparency and 16-bit grey: colours behind an alpha channel, and scaling to 8 bits, with known pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from distillkit.contracts.decoding import AS_STORED, Decoding
from distillkit.data import ImageFault, as_rgb, open_rgb
from distillkit.data.splits import open_datasets
from distillkit.errors import RecipeError
from distillkit.recipe.files import load_recipe
from distillkit.recipe.image_tables import Data

WHITE = Decoding("white")


def glyph(mode="RGBA"):
    """Black on transparent black: everything that it shows is in the alpha channel, 0, 51 and 255."""
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 51, 255
    return Image.fromarray(pixels).convert(mode)


def stored(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(file)


@pytest.mark.parametrize(
    ("background", "expected"),
    [
        ("white", [[255] * 3, [204] * 3, [0] * 3]),
        ("#ff8000", [[255, 128, 0], [204, 102, 0], [0] * 3]),
        ("none", [[0] * 3] * 3),
    ],
)
@pytest.mark.parametrize(
    "image",
    [glyph(), stored(glyph()), stored(glyph(), "WEBP", lossless=True)],
    ids=["in memory", "PNG", "WebP"],
)
def test_transparent_pixels_show_the_background(image, background, expected):
    assert np.asarray(as_rgb(image, Decoding(background)))[0].tolist() == expected


def test_every_kind_of_transparency():
    assert np.asarray(as_rgb(stored(glyph("LA")), WHITE))[0].tolist() == [[255] * 3, [204] * 3, [0] * 3]
    key = stored(Image.new("RGB", (2, 1), (9, 8, 7)), transparency=(9, 8, 7))
    assert np.asarray(as_rgb(key, WHITE)).tolist() == [[[255] * 3] * 2]
    grey_key = stored(Image.fromarray(np.array([[5, 6]], np.uint8)), transparency=5)
    assert np.asarray(as_rgb(grey_key, WHITE)).tolist() == [[[255] * 3, [6] * 3]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    gif = stored(palette, "GIF", transparency=0)
    assert np.asarray(as_rgb(gif, WHITE)).tolist() == [[[255] * 3, [40, 50, 60]]]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "RGBA", "LA"])
def test_opaque_images_are_those_of_earlier_versions(mode):
    image = Image.radial_gradient("L").convert("RGB").convert(mode)
    assert np.array_equal(as_rgb(image, WHITE), as_rgb(image, AS_STORED))


def test_exif_data_stay_for_the_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert as_rgb(stored(glyph(), exif=exif), WHITE).getexif()[0x0112] == 6


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(form):
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    image = stored(Image.fromarray(deep), form)
    scaled = np.asarray(as_rgb(image, Decoding(grey16="scale")))
    assert scaled[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert scaled[0, :, 0].tolist() == np.rint(deep[0] / 257).tolist()
    with pytest.raises(ImageFault, match=r"^pixels of mode 'I;16' would be clipped to 8 bits$"):
        as_rgb(image, WHITE)


def test_big_endian_and_32_bit_grey():
    big = Image.frombytes("I;16B", (2, 1), bytes([255, 255, 1, 1]))
    assert np.asarray(as_rgb(big, Decoding(grey16="scale")))[0, :, 0].tolist() == [255, 1]
    wide = Image.fromarray(np.array([[0, 65535]], np.int32))
    assert np.asarray(as_rgb(wide, Decoding(grey16="scale")))[0, :, 0].tolist() == [0, 255]
    with pytest.raises(ImageFault, match=r"^pixels of mode 'I' from -1 to 70,000 are not 16-bit grey$"):
        as_rgb(Image.fromarray(np.array([[-1, 70_000]], np.int32)), Decoding(grey16="scale"))
    with pytest.raises(ImageFault, match=r"^pixels of mode 'F' would be clipped to 8 bits$"):
        as_rgb(Image.new("F", (2, 1)), Decoding(grey16="scale"))


def test_the_recipe_decides_for_a_folder(plugins, tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        glyph().save(tmp_path / name / "a.png")
        glyph().save(tmp_path / name / "b.png")
    for background, first in (("white", 255), ("none", 0)):
        found = open_datasets(Data(train=str(tmp_path), validation=0.0, background=background), plugins)
        assert np.asarray(found.train.image(0))[0, 0].tolist() == [first] * 3
    assert np.asarray(open_rgb(tmp_path / "ant" / "a.png"))[0, 0].tolist() == [0] * 3


@pytest.mark.parametrize("background", ["blak", "#ff880080", "rgba(1,2,3,4)"])
def test_an_invalid_background(background):
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits", assignments=[f"data.background='{background}'"])
    assert str(caught.value) == (
        f"'data.background' is '{background}'; it should be a colour such as white or #ff8800, or none"
    )


def test_runs_of_earlier_versions_drop_the_alpha_channel(recipe_of, tmp_path):
    from distillkit.recipe.files import dump

    text = dump(recipe_of()).replace('background = "white"\n', "").replace('grey16 = "refuse"\n', "")
    (tmp_path / "recipe.toml").write_text(text)
    assert Decoding.of(load_recipe(tmp_path / "recipe.toml").data) == AS_STORED
    assert Decoding.of(load_recipe("digits").data) == WHITE
