"""Images with alpha, 16 bits, EXIF data or other extensions, and folders that look like splits; damaged or made up."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from distillkit.contracts.decoding import Decoding
from distillkit.data.given_image import read_image
from distillkit.data.image_folders import SPLIT_NAMES
from distillkit.data.orientation import upright
from distillkit.data.sources import load_image
from distillkit.data.splits import open_datasets
from distillkit.messages.text import printable_lines
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.image_tables import Data
from distillkit_plugins.datasets.folder import Folder
from tests.fuzz.test_image_folders import corrupted

FUZZ = settings.get_profile("fuzz")
DECODINGS = st.builds(Decoding, st.sampled_from(["none", "white", "#ff8800"]), st.sampled_from(["refuse", "scale"]))
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 16, 4), np.uint8)
DEEP = RNG.integers(0, 65536, (12, 16), np.uint16)


def encoded(image, form, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def with_orientation(number) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    exif[0x010E] = "a description"
    return exif.tobytes()


RGBA, RGB = Image.fromarray(PIXELS), Image.fromarray(PIXELS[..., :3])
PALETTE = RGB.quantize(8)
REAL = {
    "alpha": [
        ("png", encoded(RGBA, "PNG")),
        ("webp", encoded(RGBA, "WEBP", lossless=True)),
        ("tiff", encoded(RGBA, "TIFF")),
        ("png", encoded(RGBA.convert("LA"), "PNG")),
        ("png", encoded(PALETTE, "PNG", transparency=bytes(range(0, 256, 32)))),
        ("png", encoded(RGB, "PNG", transparency=(9, 8, 7))),
        ("gif", encoded(PALETTE, "GIF", transparency=3)),
        ("tga", encoded(RGBA, "TGA")),
    ],
    "16 bit": [
        ("png", encoded(Image.fromarray(DEEP), "PNG")),
        ("tiff", encoded(Image.fromarray(DEEP), "TIFF")),
        ("tif", encoded(Image.fromarray(DEEP.astype(np.int32)), "TIFF")),
        ("pgm", encoded(Image.fromarray(DEEP), "PPM")),
        ("tiff", encoded(Image.fromarray(DEEP.astype(np.float32)), "TIFF")),
    ],
    "EXIF": [
        (extension, encoded(RGB, form, exif=with_orientation(number)))
        for number in (1, 3, 6, 8)
        for extension, form in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("tiff", "TIFF"))
    ],
    "other extensions": [
        *((extension, encoded(RGB, form)) for extension, form in (("jfif", "JPEG"), ("pcx", "PCX"), ("sgi", "SGI"))),
        *((extension, encoded(RGBA, form)) for extension, form in (("ico", "ICO"), ("dds", "DDS"), ("icns", "ICNS"))),
        *((extension, encoded(RGB, form)) for extension, form in (("im", "IM"), ("ppm", "PPM"), ("tga", "TGA"))),
        *((extension, encoded(PALETTE, form)) for extension, form in (("gif", "GIF"), ("", "GIF"), ("bmp", "BMP"))),
        *([("jp2", encoded(RGB, "JPEG2000"))] if features.check("jpg_2000") else []),
        *([("avif", encoded(RGBA, "AVIF"))] if features.check("avif") else []),
    ],
}


@pytest.mark.parametrize("kind", REAL)
@settings(FUZZ, max_examples=6 * FUZZ.max_examples)
@given(data=st.data())
def test_corrupted_images_of_a_kind(attempt, tmp_path, kind, data):
    for former in tmp_path.iterdir():
        former.unlink()
    extension, content = data.draw(st.sampled_from(REAL[kind]))
    decoding = data.draw(DECODINGS)
    path = tmp_path / (f"image.{extension}" if extension else "image")
    path.write_bytes(corrupted(data.draw, content) if data.draw(st.integers(0, 3)) else content)
    image = attempt(f"image, {kind}", lambda: upright(load_image(Folder(tmp_path, decoding=decoding), 0)))
    given_by_path = attempt(f"image, {kind}", lambda: read_image(path, "RGB", decoding))
    assert image is None or np.asarray(image).dtype == np.uint8
    if image is not None and given_by_path is not None:
        assert np.array_equal(image, upright(given_by_path))


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(
    content=st.binary(max_size=60) | st.builds(lambda number: with_orientation(number)[:30], st.integers(0, 65_535)),
    form=st.sampled_from(["PNG", "WEBP"]),
)
def test_exif_data_of_any_content(attempt, tmp_path, content, form):
    """Damaged EXIF data are ignored: the image is read, turned or not."""
    path = tmp_path / f"image.{form.lower()}"
    path.write_bytes(encoded(RGB, form, lossless=True, exif=b"Exif\0\0" + content))
    image = attempt("image, EXIF data of any content", lambda: upright(load_image(Folder(tmp_path), 0)))
    assert image is not None
    assert sorted(image.size) == [12, 16]


SPLITS = sorted(name for names in SPLIT_NAMES.values() for name in names)
names = st.sampled_from([*SPLITS, *(name.title() for name in SPLITS), *(name.upper() for name in SPLITS)]) | (
    st.sampled_from(["cat", "Cat", "CAT", "dog", "1", "01", "@eaDir", "__MACOSX", "lost+found", ".hidden", "notes.txt"])
)
files = st.sampled_from(["a.png", "b.PNG", "c", "readme.txt", "d.gif", "Thumbs.db"])


@settings(FUZZ, max_examples=6 * FUZZ.max_examples)
@given(
    tree=st.lists(st.tuples(st.lists(names, max_size=3), files), min_size=1, max_size=12),
    validation=st.sampled_from([0.0, 0.5]),
)
def test_folders_that_look_like_splits(attempt, tmp_path_factory, tree, validation):
    """Splits and classes, or one sentence; an image is never in two splits."""
    root = tmp_path_factory.mktemp("splits")
    for folders, file in tree:
        root.joinpath(*folders).mkdir(parents=True, exist_ok=True)
        root.joinpath(*folders, file).write_bytes(REAL["alpha"][0][1])

    def opened():
        return open_datasets(Data(train=f"folder:{root}", validation=validation), installed_plugins())

    found = attempt("image folder, folders that look like splits", opened)
    if found is None:
        return
    assert all(printable_lines(note).isprintable() for note in found.notes)
    keys = [
        {(part.source.name, part.source.key(index)) for part in split.parts for index in part.indices.tolist()}
        for split in (found.train, found.validation, found.test)
        if split is not None
    ]
    assert sum(map(len, keys)) == len(set.union(*keys))
