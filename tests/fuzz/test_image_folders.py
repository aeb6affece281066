"""Untrusted image folders: images, or a one-line error, for any bytes and names."""

import io
import os
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distillkit.data.given_image import read_image
from distillkit.data.sources import load_image
from distillkit.data.splits import open_datasets
from distillkit.errors import DataError, DistillkitError
from distillkit.messages.text import printable_lines
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.image_tables import Data
from distillkit_plugins.datasets.folder import Folder

FUZZ = settings.get_profile("fuzz")
FORMATS = {
    "png": "PNG",
    "jpg": "JPEG",
    "webp": "WEBP",
    "tiff": "TIFF",
    "bmp": "BMP",
    "ppm": "PPM",
    "pgm": "PPM",
    "jpeg": "JPEG",
}


def encoded(extension: str) -> bytes:
    """A real image of 16 x 12 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    image = Image.fromarray(pixels).convert("L" if extension == "pgm" else "RGB")
    file = io.BytesIO()
    image.save(file, FORMATS[extension])
    return file.getvalue()


REAL = {extension: encoded(extension) for extension in FORMATS}
extensions = st.sampled_from([*FORMATS, "PNG", "tif"])
# Valid file names: bytes without a slash or a NUL, and neither "." nor "..".
names = (
    st.binary(min_size=1, max_size=40)
    .map(lambda name: name.replace(b"/", b"").replace(b"\0", b""))
    .filter(lambda name: name not in {b"", b".", b".."})
    | st.sampled_from(
        ["\x1b[2J\x1b[H", "a\nb", "\u202egnp", "...", "e\u0301", "\udcff".encode(errors="surrogateescape")]
    )
    | st.text(max_size=12)
)


def as_name(name) -> str:
    found = os.fsdecode(name) if isinstance(name, bytes) else name
    return found.replace("/", "_").replace("\0", "_").strip(".")[:60] or "x"


def corrupted(draw, content: bytes) -> bytes:
    how = draw(st.sampled_from(["flip", "flip", "flip", "cut", "insert", "splice", "random"]))
    place = draw(st.integers(0, len(content) - 1))
    if how == "cut":
        return content[:place]
    if how == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=9)) + content[place:]
    if how == "splice":
        return content[:place] + content[draw(st.integers(0, len(content) - 1)) :]
    if how == "random":
        return draw(st.binary(max_size=64))
    changed = bytearray(content)
    # The header comes first, and a flipped byte there may announce an image of gigabytes.
    last = draw(st.sampled_from([min(64, len(content)), len(content)])) - 1
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, last))] = draw(st.integers(0, 255))
    return bytes(changed)


def read(root: Path, index: int = 0):
    """The image as a run loads it."""
    return np.asarray(load_image(Folder(root), index))


@settings(FUZZ, max_examples=8 * FUZZ.max_examples)
@given(extension=st.sampled_from(sorted(FORMATS)), data=st.data())
def test_corrupted_images(attempt, tmp_path, extension, data):
    for former in tmp_path.iterdir():
        former.unlink()
    path = tmp_path / f"image.{extension}"
    path.write_bytes(corrupted(data.draw, REAL[data.draw(st.sampled_from([extension, "png", "tiff"]))]))
    pixels = attempt(f"image, {FORMATS[extension]} corrupted", lambda: read(tmp_path))
    assert pixels is None or (pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about truncated files
        attempt(f"image, {FORMATS[extension]} corrupted", lambda: read_image(path, "RGB"))


@settings(FUZZ, max_examples=2 * FUZZ.max_examples)
@given(extension=extensions, content=st.binary(max_size=200))
def test_random_bytes(attempt, tmp_path, extension, content):
    for former in tmp_path.iterdir():
        former.unlink()
    (tmp_path / f"image.{extension}").write_bytes(content)
    attempt("image, random bytes", lambda: read(tmp_path))


@settings(FUZZ, max_examples=4 * FUZZ.max_examples)
@given(folders=st.lists(st.lists(names, min_size=1, max_size=3), min_size=1, max_size=3), number=st.integers())
def test_names(attempt, tmp_path_factory, folders, number):
    """Classes and images of any name: messages about them are one line without control characters."""
    root = tmp_path_factory.mktemp("names")
    for parts in folders:
        *path, last = map(as_name, parts)
        folder = root.joinpath(*path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{last}.png").write_bytes(b"damaged")
        except (FileExistsError, NotADirectoryError):  # an image of that name
            continue

    def opened():
        found = open_datasets(Data(train=f"folder:{root}", validation=0.0), installed_plugins())
        return [printable_lines(note) for note in found.notes], found.fingerprint, found.train.key(0), found.class_names

    found = attempt("image folder, names of any kind", opened)
    if found is not None:
        notes, _, _, classes = found
        assert all(note.isprintable() for note in notes)
        for name in classes or ():
            name.encode()  # class names are text: they are written to plan.json, student.json and the bundle
    attempt("image folder, names of any kind", lambda: read(root))


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)  # relative to the working directory: a socket path has at most 108 characters


def leading_back(path: Path) -> None:
    for number in range(3):
        (path.parent / f"{number}").symlink_to(path.parent.parent, target_is_directory=True)


STRANGE = {
    "a pipe": os.mkfifo,
    "a socket": bound,
    "a loop": lambda path: path.symlink_to(path),
    "nothing": lambda path: path.symlink_to("gone.png"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}
HARMLESS = {"a folder": Path.mkdir, "three ways back": leading_back}


@pytest.mark.parametrize("kind", [*STRANGE, *HARMLESS])
def test_something_else_in_place_of_an_image(attempt, tmp_path, kind, monkeypatch):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(REAL["png"])
    monkeypatch.chdir(tmp_path / "cat")
    (STRANGE | HARMLESS)[kind](tmp_path / "cat" / "0.png")

    def unreadable():
        source = Folder(tmp_path)
        failed = 0
        for index in range(len(source)):
            try:
                load_image(source, index)
            except DistillkitError:
                failed += 1
        return len(source), failed

    found = attempt("image folder, something else in place of an image", unreadable)
    assert found == ((3, 1) if kind in STRANGE else (2, 0))


def test_the_error_for_a_pipe_names_it(tmp_path):
    os.mkfifo(tmp_path / "0.png")
    with pytest.raises(DataError) as caught:
        load_image(Folder(tmp_path), 0)
    assert str(caught.value) == (
        f"image '0.png' of '{tmp_path}' cannot be read: it is a pipe, not a file; repair or remove it"
    )


def test_a_tree_of_1500_folders(attempt, tmp_path):
    root = folder = tmp_path / "root"
    folder.mkdir()
    for _ in range(1_500):
        folder = folder / "d"
        folder.mkdir()
    picture = folder / "0.png"
    picture.write_bytes(REAL["png"])
    expected = np.asarray(Image.open(picture).convert("RGB"))
    assert np.array_equal(attempt("image folder, a deep tree", lambda: read(root)), expected)
    picture.unlink()
    while folder != tmp_path:  # shutil.rmtree, which pytest calls, does not go this deep
        folder.rmdir()
        folder = folder.parent


NO_FOLDERS = ["\n", "a\0b", "x" * 5_000, "~unknown-user/x", "/dev/zero", "/dev/null/x", "\x1b[2J", "\udcff"]


@pytest.mark.parametrize("prefix", ["folder:", ""])
@pytest.mark.parametrize("argument", NO_FOLDERS)
def test_paths_that_are_not_folders(attempt, prefix, argument):
    data = Data.model_construct(**{**Data().model_dump(), "train": prefix + argument})
    assert attempt("image folder, an invalid path", lambda: open_datasets(data, installed_plugins())) is None


def test_a_class_name_that_is_not_valid_utf_8_is_refused(tmp_path):
    for name in (b"cat", b"d\xffg"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        folder.mkdir()
        (folder / "0.png").write_bytes(REAL["png"])
    with pytest.raises(DataError) as caught:
        Folder(tmp_path)
    assert str(caught.value) == (
        f"folder '{tmp_path}' has a class folder 'd\\udcffg' whose name is not valid UTF-8; rename it"
    )
