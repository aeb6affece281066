"""Every kind of image fault, made with real files, is recognised; everything else decodes as an image."""

import errno
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from distillkit import DataError, MissingExtraError
from distillkit.data import ImageFault, as_rgb, open_rgb
from distillkit.data.given_image import read_image
from distillkit.data.image_faults import KINDS
from distillkit.data.sources import load_image, read_stream
from distillkit.errors import UnreadableImageError
from distillkit.messages.text import visible
from distillkit_plugins.datasets.folder import Folder
from tests.data.breaking import BREAKERS, as_user, why_not_as_user


@pytest.fixture
def picture(write_pictures, tmp_path):
    """The only image of a folder."""
    return write_pictures(tmp_path, {"cat": 1}) / "cat" / "0000.png"


def fault(path):
    """The error of loading the only image of a folder."""
    with pytest.raises(UnreadableImageError) as caught:
        load_image(Folder(path.parents[1]), 0)
    return caught.value


def raising(error):
    """A source whose image raises `error`."""

    def image(index):
        raise error

    return SimpleNamespace(name="theirs", key=lambda index: "a/1", image=image)


def kind_of(error):
    with pytest.raises(UnreadableImageError) as caught:
        load_image(raising(error), 0)
    assert isinstance(caught.value.__cause__, type(error))
    return caught.value.kind


REASONS = {
    "empty": "the file has no bytes",
    "truncated": "image file is truncated",
    "not-an-image": "cannot identify image file '{path}'",
    "wrong-mode": "pixels of mode 'I;16' would be clipped to 8 bits",
    "too-large": (
        "Image size (3600000000 pixels) exceeds limit of 178956970 pixels, could be decompression bomb DOS attack."
    ),
    "missing": "[Errno 2] No such file or directory: '{path}'",
    "damaged": "broken data stream when reading image file",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_broken_file_has_a_kind_and_a_reason(picture, kind):
    BREAKERS[kind](picture)
    error, reason = fault(picture), REASONS[kind].format(path=picture)
    assert (error.key, error.kind, error.reason) == ("cat/0000.png", kind, reason)
    assert str(error) == (
        f"image 'cat/0000.png' of '{picture.parents[1]}' cannot be read: {reason}; repair or remove it"
    )


@pytest.mark.skipif(why_not_as_user() is not None, reason=f"cannot drop root's capabilities: {why_not_as_user()}")
def test_a_file_without_read_permission_is_forbidden(picture):
    BREAKERS["forbidden"](picture)
    code = (
        "import json, sys; from pathlib import Path; from distillkit.data.sources import load_image\n"
        "from distillkit.errors import UnreadableImageError; from distillkit_plugins.datasets.folder import Folder\n"
        "try: load_image(Folder(Path(sys.argv[1])), 0)\n"
        "except UnreadableImageError as error: print(json.dumps([error.key, error.kind, error.reason]))"
    )
    done = as_user(["-c", code, str(picture.parents[1])], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.stderr == ""
    assert json.loads(done.stdout) == ["cat/0000.png", "forbidden", f"[Errno 13] Permission denied: '{picture}'"]


def test_every_kind_is_tested_and_explained():
    assert {*REASONS, "forbidden"} == set(KINDS)
    assert all(meaning and meaning[-1] != "." for meaning in KINDS.values())


def test_truncated_jpeg_webp_bmp_and_ppm(picture):
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    for suffix in ("jpg", "webp", "bmp", "ppm"):
        photograph.save(picture.with_suffix(f".{suffix}"))
        picture.unlink()
        picture = picture.with_suffix(f".{suffix}")
        content = picture.read_bytes()
        picture.write_bytes(content[: len(content) // 2])
        assert fault(picture).kind == "truncated"


def test_a_file_with_the_first_bytes_of_an_image_is_damaged(picture):
    content = bytearray(picture.read_bytes())
    content[12] ^= 0xFF  # of the name of its first chunk
    picture.write_bytes(content)
    assert (fault(picture).kind, fault(picture).reason) == (
        "damaged",
        f"cannot identify image file '{picture}', although its first bytes are those of one",
    )


def test_an_extreme_aspect_ratio_is_too_large(picture):
    Image.new("RGB", (1, 2001)).save(picture)
    assert (fault(picture).kind, fault(picture).reason) == (
        "too-large",
        "its aspect ratio is too extreme to resize (1 x 2,001 pixels; at most 1:1,000)",
    )
    Image.new("RGB", (2, 2000)).save(picture)
    assert load_image(Folder(picture.parents[1]), 0).size == (2, 2000)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), "missing"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), "missing"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links"), "missing"),
        (OSError(errno.ESTALE, "Stale file handle"), "missing"),
        (PermissionError(errno.EACCES, "Permission denied"), "forbidden"),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), "not-an-image"),
        (OSError(errno.EIO, "Input/output error"), "damaged"),
        (EOFError(), "truncated"),
        (MemoryError(), "too-large"),
        (Image.DecompressionBombError("too many pixels"), "too-large"),
        (SyntaxError("broken PNG file"), "damaged"),
        (struct.error("unpack requires a buffer of 4 bytes"), "damaged"),
        (KeyError("pixels"), "damaged"),
        (DataError("the shard has no such picture"), "damaged"),
        (ImageFault("wrong-mode", "it has five channels"), "wrong-mode"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_error_of_a_source_has_a_kind(error, kind):
    assert kind_of(error) == kind


def test_a_killed_loader_is_not_a_fault_of_the_image_that_is_being_read():
    """torch raises the death of a loader process from a signal handler, wherever the main thread is."""
    killed = RuntimeError("DataLoader worker (pid 19883) is killed by signal: Killed. ")
    with pytest.raises(DataError) as caught:
        load_image(raising(killed), 0)
    assert not isinstance(caught.value, UnreadableImageError)
    assert caught.value.__cause__ is killed


def test_system_errors_and_missing_packages_are_not_image_faults():
    with pytest.raises(DataError) as caught:
        load_image(raising(OSError(errno.EMFILE, "Too many open files")), 0)
    assert not isinstance(caught.value, UnreadableImageError)
    assert str(caught.value) == (
        "image 'a/1' of 'theirs' cannot be read because of a system error: [Errno 24] Too many open files; "
        "lower data.workers, or raise the limits of the process (ulimit)"
    )
    with pytest.raises(MissingExtraError, match=r"^it needs more$"):
        load_image(raising(MissingExtraError("it needs more")), 0)


def test_errors_survive_pickling():
    error = UnreadableImageError("a sentence", key="a", kind="empty", reason="why")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (str(again), again.key, again.kind, again.reason) == ("a sentence", "a", "empty", "why")
    fault = pickle.loads(pickle.dumps(ImageFault("empty", "why")))  # noqa: S301 - our own
    assert (fault.kind, fault.reason) == ("empty", "why")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_greys_of_more_than_8_bits_are_refused_because_pillow_clips_them(dtype):
    ramp = (np.arange(64 * 64).reshape(64, 64) * 16).astype(dtype)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "TIFF")
    with Image.open(file) as image:
        clipped = np.asarray(image.convert("RGB"))
        assert (clipped == 255).mean() > 0.99
        with pytest.raises(ImageFault) as caught:
            as_rgb(image)
        assert (caught.value.kind, caught.value.reason) == (
            "wrong-mode",
            f"pixels of mode '{image.mode}' would be clipped to 8 bits",
        )
    with pytest.raises(ImageFault, match="clipped"):
        open_rgb(file)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_other_modes_are_converted_by_pillow(mode):
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert("RGB")
    image = colours.convert(mode)
    assert np.array_equal(as_rgb(image), image.convert("RGB"))


def test_a_mode_without_a_conversion_to_rgb_is_a_wrong_mode():
    with pytest.raises(ImageFault) as caught:
        as_rgb(Image.new("La", (4, 4)))
    assert (caught.value.kind, caught.value.reason) == (
        "wrong-mode",
        "mode 'La' cannot be converted to RGB: conversion from La to L not supported",
    )


def test_a_palette_with_transparency_and_many_pixels_raise_no_warning(picture, monkeypatch):
    with Image.open(picture) as image:
        image.convert("P").save(picture, transparency=bytes(range(256)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # of 64: enough for a warning, too few to refuse
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(Folder(picture.parents[1]), 0).mode == "RGB"
        with pytest.raises(Warning, match=r"transparency|decompression bomb"):
            open_rgb(picture)


def test_a_lazily_opened_image_is_decoded_on_load(picture):
    BREAKERS["damaged"](picture)
    lazy = SimpleNamespace(name="theirs", key=lambda index: "1", image=lambda index: Image.open(picture))
    with pytest.raises(UnreadableImageError, match=r"^image '1' of 'theirs' cannot be read: broken data stream"):
        load_image(lazy, 0)


@given(st.text(st.characters(codec=None)))
def test_every_key_can_be_shown_and_written(key):
    shown = visible(key)
    assert shown.isprintable()
    shown.encode()
    assert not key.isprintable() or shown == key


def test_any_error_of_a_stream_is_a_data_error_with_its_name():
    def read(number):
        yield Image.new("RGB", (2, 2)), 1
        raise struct.error("unpack requires a buffer of 4 bytes")

    passing = read_stream(SimpleNamespace(name="timm:wds/x", read=read), 3)
    assert next(passing)[1] == 1
    with pytest.raises(DataError) as caught:
        next(passing)
    assert str(caught.value) == (
        "the stream 'timm:wds/x' failed: unpack requires a buffer of 4 bytes; repair the shard that it was reading"
    )


READ = "from distillkit.data.given_image import read_image\nread = lambda path: read_image(path, 'RGB')"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("code", ["from distillkit.data import open_rgb as read", READ])
def test_no_image_starts_a_program(tmp_path, code):
    """Pillow would call `gs` for an EPS file of any name, even to find out whether it is installed."""
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    gs.chmod(0o755)
    picture = tmp_path / "cat.png"
    picture.write_bytes(EPS)
    attempt = f"try:\n    read(Path({str(picture)!r}))\nexcept Exception as no:\n    print(no)"
    call = f"{code}\nfrom pathlib import Path\n{attempt}"
    environment = {"PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True, env=environment)
    assert not (tmp_path / "started").exists()
    assert done.stdout in (
        "it is an EPS file, a program for Ghostscript; convert it\n",
        f"image '{picture}' cannot be read: it is an EPS file, a program for Ghostscript; convert it\n",
    )


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\xff\x0a\xf8\x1f\x68\x82\x61\x44\x10\x1a\x10", "JPEG XL"),
        (b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a", "JPEG XL"),
    ],
)
def test_a_format_that_pillow_does_not_read_is_named_with_a_remedy(tmp_path, content, name):
    sentence = f"Pillow cannot read {name}; convert it to JPEG"
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for file in (path, io.BytesIO(content)):
        with pytest.raises(ImageFault) as refused:
            open_rgb(file)
        assert (refused.value.kind, str(refused.value)) == ("not-an-image", sentence)
    with pytest.raises(DataError) as refused:
        read_image(path, "L")
    assert str(refused.value) == f"image '{path}' cannot be read: {sentence}"
