"""Images given in Python: one or several, of any kind, and a sentence for everything that is not an image."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from distillkit.contracts.decoding import Decoding
from distillkit.data.given_image import as_pillow, as_several, read_image, to_color
from distillkit.errors import DataError

RED = Image.new("RGB", (4, 3), (255, 0, 0))


def sentence(call, *arguments):
    with pytest.raises(DataError) as refused:
        call(*arguments)
    return str(refused.value)


@pytest.mark.parametrize(
    "image", ["a.png", RED, np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 1), np.uint8)]
)
def test_one_image_becomes_a_list_of_one(image):
    (only,) = as_several(image)
    assert only is image


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (2, 4, 5)])
def test_a_batch_in_an_array_is_several_images(shape):
    assert [image.shape for image in as_several(np.zeros(shape, np.uint8))] == [shape[1:]] * 2


def test_lists_and_generators_stay_as_they_are():
    images = ["a.png", RED]
    assert as_several(images) is images
    generator = iter(images)
    assert as_several(generator) is generator
    assert list(as_several([])) == []


ANY = "give a path, a Pillow image, or pixels [H, W, 3] or [H, W] of type uint8"
OPEN = "; open the content of a file with PIL.Image.open(io.BytesIO(content))"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (None, f"None is not an image; {ANY}"),
        (3, f"an object of type int is not an image; {ANY}"),
        (b"GIF89a", f"an object of type bytes is not an image; {ANY}{OPEN}"),
        (bytearray(b"GIF89a"), f"an object of type bytearray is not an image; {ANY}{OPEN}"),
        (io.BytesIO(b"GIF89a"), f"an object of type BytesIO is not an image; {ANY}{OPEN}"),
    ],
)
def test_an_object_that_is_not_an_image_is_one_sentence(image, expected):
    assert sentence(as_several, image) == expected
    assert sentence(as_pillow, image) == expected


@pytest.mark.parametrize("shape", [(), (0,), (0, 5, 3), (5, 0), (5, 5, 0)])
def test_an_array_without_pixels_is_one_sentence(shape):
    expected = (
        f"an array of shape {list(shape)} and type uint8 is not an image; give pixels [H, W, 3] or [H, W] of type uint8"
    )
    assert sentence(as_several, np.zeros(shape, np.uint8)) == expected
    assert sentence(as_pillow, np.zeros(shape, np.uint8)) == expected


@pytest.mark.parametrize("array", [np.zeros((4, 5)), np.zeros((4, 5, 2), np.uint8), np.zeros((1, 2, 3, 4), np.uint8)])
def test_an_array_of_another_type_or_shape_is_one_sentence(array):
    assert sentence(as_pillow, array).startswith(f"an array of shape {list(array.shape)} and type {array.dtype} is not")


def test_arrays_become_pillow_images():
    pixels = np.asarray(RED)
    np.testing.assert_array_equal(np.asarray(as_pillow(pixels)), pixels)
    assert as_pillow(pixels[:, :, :1]).mode == as_pillow(pixels[:, :, 0]).mode == "L"
    assert as_pillow(RED) is RED


def deep(kind):
    return Image.fromarray(np.arange(12).reshape(3, 4).astype(kind))


@pytest.mark.parametrize("shape", [(3, 40, 40), (1, 4, 5), (4, 2, 2)])
def test_an_array_with_its_channels_first_gets_one_answer(shape):
    """It would be a batch of grey images, too."""
    array = np.zeros(shape, np.uint8)
    expected = (
        f"an array of shape {list(shape)} and type uint8 is not an image; give pixels [H, W, 3] or [H, W] of type "
        "uint8, with the channels last: array.transpose(1, 2, 0)"
    )
    assert sentence(as_several, array) == sentence(as_pillow, array) == expected
    assert as_pillow(array.transpose(1, 2, 0)).size == (shape[2], shape[1])
    assert len(list(as_several(list(array)))) == shape[0]  # grey images


def test_pixels_that_would_be_clipped_are_refused():
    for mode, kind in (("I;16", np.uint16), ("I", np.int32), ("F", np.float32)):
        scaled = "" if mode == "F" else ", or train with data.grey16=scale, which scales 16-bit grey"
        assert sentence(to_color, deep(kind), "RGB") == (
            f"the image cannot be used: pixels of mode '{mode}' would be clipped to 8 bits; convert it to 8 bits"
            f"{scaled}"
        )
    assert to_color(deep(np.uint16), "RGB", Decoding(grey16="scale")).mode == "RGB"


def test_an_image_that_cannot_be_decoded_is_one_sentence(tmp_path):
    assert sentence(to_color, Image.new("RGB", (0, 4)), "RGB") == "the image cannot be used: it has no pixels"
    RED.save(tmp_path / "a.png")
    closed = Image.open(tmp_path / "a.png")
    closed.close()
    assert sentence(to_color, closed, "L") == "the image cannot be used: Operation on closed image"
    Image.linear_gradient("L").rotate(30).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    assert sentence(to_color, Image.open(tmp_path / "a.png"), "L") == (
        "the image cannot be used: image file is truncated"
    )
    assert sentence(read_image, tmp_path / "a.png", "L") == (
        f"image '{tmp_path}/a.png' cannot be read: image file is truncated"
    )


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert sentence(read_image, tmp_path / "a.png", "RGB") == (
        f"image '{tmp_path}/a.png' cannot be read: it is a pipe, not a file"
    )
