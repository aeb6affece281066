"""Preprocessing without torch is bit-identical to that of the run's evaluation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pydantic import ValidationError
from sklearn.datasets import load_sample_images

from distillkit.contracts.decoding import AS_STORED, Decoding
from distillkit.contracts.exporter import ExportRequest
from distillkit.contracts.model import ModelSpec, Signal
from distillkit.data.given_image import read_image
from distillkit.data.transforms import evaluation_transform
from distillkit.errors import DataError, UnavailableError
from distillkit.recipe.image_tables import Augment
from distillkit_export.bundle.manifest import InputCard, describe
from distillkit_export.bundle.preprocess import prepare

PHOTOGRAPHS = [Image.fromarray(photograph) for photograph in load_sample_images().images]
SPEC = ModelSpec(
    name="student",
    architecture="vit",
    kind="vit",
    classes=7,
    class_names=None,
    image_size=(32, 32),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    signals=frozenset({Signal.LOGITS}),
)
GREY = {"mean": (0.31,), "std": (0.27,)}


def card(spec, **request):
    return describe(spec, ExportRequest(**request)).input


def evaluated(image, spec):
    """The image after the transform of evaluation."""
    augment = Augment(interpolation=spec.interpolation, eval_crop=spec.crop, orientation=spec.orientation)
    return evaluation_transform(augment, spec)(image).numpy()


sides = st.integers(1, 400)
sizes = st.one_of(st.integers(1, 64).map(lambda side: (side, side)), st.tuples(st.integers(1, 64), st.integers(1, 64)))


@given(
    st.sampled_from(PHOTOGRAPHS),
    st.tuples(sides, sides),
    sizes,
    st.one_of(st.just(1.0), st.just(0.875), st.floats(0.3, 1.0)),
    st.sampled_from(["bicubic", "bilinear", "nearest"]),
    st.booleans(),
)
def test_every_photograph_is_preprocessed_bit_for_bit_as_in_evaluation(image, cut, size, crop, interpolation, grey):
    image = image.crop((100, 10, 100 + cut[0], 10 + cut[1]))
    spec = replace(SPEC, image_size=size, crop=crop, interpolation=interpolation, **(GREY if grey else {}))
    image = image.convert("L") if grey else image
    found = prepare(image, card(spec))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, evaluated(image, spec))


@given(st.tuples(sides, sides), sizes, st.floats(0.3, 1.0))
def test_uint8_pixels_are_those_of_evaluation_before_normalisation(cut, size, crop):
    image = PHOTOGRAPHS[0].crop((50, 50, 50 + cut[0], 50 + cut[1]))
    spec = replace(SPEC, image_size=size, crop=crop, mean=(0.0,) * 3, std=(1.0,) * 3)
    pixels = prepare(image, card(spec, uint8=True))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (*size, 3))
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1) / np.float32(255), evaluated(image, spec))


def saved(folder, name, image, **options):
    image.save(folder / name, **options)
    return folder / name


def rotated_by_exif():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees for display
    return exif


@pytest.mark.parametrize("kind", ["jpeg", "palette", "alpha", "palette with alpha", "grey", "exif", "animated"])
@pytest.mark.parametrize(("orientation", "background"), [("exif", "#204060"), ("stored", "none")])
def test_every_kind_of_file_is_read_as_a_training_folder_reads_it(tmp_path, kind, orientation, background):
    from distillkit_plugins.datasets.folder import Folder

    image = PHOTOGRAPHS[1].crop((200, 100, 290, 160))
    transparent = image.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(image.size))
    paths = {
        "jpeg": lambda: saved(tmp_path, "a.jpg", image),
        "palette": lambda: saved(tmp_path, "a.png", image.quantize(40)),
        "alpha": lambda: saved(tmp_path, "a.png", transparent),
        "palette with alpha": lambda: saved(tmp_path, "a.png", transparent.quantize(40)),
        "grey": lambda: saved(tmp_path, "a.png", image.convert("L")),
        "exif": lambda: saved(tmp_path, "a.jpg", image, exif=rotated_by_exif()),
        "animated": lambda: saved(tmp_path, "a.webp", image, save_all=True, append_images=[image.rotate(90)]),
    }
    path = paths[kind]()
    spec = replace(SPEC, image_size=(24, 40), crop=0.9, orientation=orientation, background=background)
    decoding = Decoding(background=background)
    found = prepare(read_image(path, "RGB", decoding), card(spec))
    np.testing.assert_array_equal(found, prepare(Image.open(path), card(spec)))
    np.testing.assert_array_equal(found, evaluated(Folder(tmp_path, decoding=decoding).image(0), spec))


@pytest.mark.parametrize("form", ["jpg", "png", "webp", "tif"])
def test_photographs_are_upright_unless_the_bundle_uses_them_as_stored(tmp_path, form):
    image = PHOTOGRAPHS[1].crop((200, 100, 290, 160))
    path = saved(tmp_path, f"a.{form}", image, exif=rotated_by_exif())
    pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    spec = replace(SPEC, image_size=(24, 24))
    np.testing.assert_array_equal(
        prepare(read_image(path, "RGB"), card(spec)), prepare(Image.fromarray(pixels), card(spec))
    )
    stored = prepare(read_image(path, "RGB"), card(replace(spec, orientation="stored")))
    turned_by_pillow = form == "tif"
    expected = Image.fromarray(pixels if turned_by_pillow else np.asarray(Image.open(path)))
    np.testing.assert_array_equal(stored, prepare(expected, card(spec)))


def test_a_bundle_of_an_earlier_version_uses_images_as_stored():
    entry = card(SPEC).model_dump()
    assert entry.pop("orientation") == "exif"
    assert InputCard.model_validate(entry).orientation == "stored"


def test_a_bundle_of_an_earlier_version_drops_alpha_and_refuses_16_bits():
    entry = card(replace(SPEC, grey16="scale")).model_dump()
    assert (entry.pop("background"), entry.pop("grey16")) == ("white", "scale")
    assert Decoding.of(InputCard.model_validate(entry)) == AS_STORED


@pytest.mark.parametrize("background", ["blak", "#ffffff80", "x" * 40])
def test_a_manifest_with_an_invalid_background_is_refused(background):
    with pytest.raises(ValidationError):
        InputCard.model_validate(card(SPEC).model_dump() | {"background": background})


def test_images_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError) as refused:
        read_image(tmp_path / "no.png", "RGB")
    assert str(refused.value) == f"image '{tmp_path}/no.png' does not exist"
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError) as refused:
        read_image(tmp_path / "text.png", "RGB")
    assert str(refused.value) == (
        f"image '{tmp_path}/text.png' cannot be read: cannot identify image file '{tmp_path}/text.png'"
    )
    truncated = saved(tmp_path, "truncated.png", PHOTOGRAPHS[0].crop((0, 0, 90, 90)))
    truncated.write_bytes(truncated.read_bytes()[:900])
    with pytest.raises(DataError, match=r"^image '.*truncated.png' cannot be read: [^\n]*$"):
        read_image(truncated, "RGB")
    deep = saved(tmp_path, "deep.png", Image.fromarray(np.arange(5400, dtype=np.uint16).reshape(60, 90) * 12))
    with pytest.raises(DataError) as refused:
        read_image(deep, "RGB")
    assert str(refused.value) == (
        f"image '{deep}' cannot be read: pixels of mode 'I;16' would be clipped to 8 bits; convert it to 8 bits, or "
        "train with data.grey16=scale, which scales 16-bit grey"
    )


def test_an_extreme_aspect_ratio_is_refused():
    with pytest.raises(DataError) as refused:
        prepare(Image.new("RGB", (1, 60_000)), card(replace(SPEC, image_size=(224, 224), crop=0.875)))
    assert str(refused.value) == "the aspect ratio of an image of 1 x 60000 pixels is too extreme to resize"


def test_channels_that_no_image_has_are_refused():
    spec = replace(SPEC, mean=(0.5,) * 4, std=(0.5,) * 4)
    with pytest.raises(UnavailableError) as refused:
        prepare(PHOTOGRAPHS[0], card(spec))
    assert str(refused.value) == (
        "the bundle takes images of 4 channels, which image files do not have; "
        "prepare the arrays yourself and give them to the runtime"
    )
