"""Pictures of third parties: nothing but regular files is opened, and metadata take neither time nor memory."""

from __future__ import annotations

import json
import os
import time
from contextlib import nullcontext

import pytest
from PIL import Image

from distillkit.contracts.decoding import AS_STORED
from distillkit.data.given_image import read_image
from distillkit.data.image_faults import ImageFault, open_rgb, without_warnings
from distillkit.data.image_folders import list_images
from distillkit.data.orientation import upright
from distillkit.errors import DataError
from distillkit.evaluation.attention_files import _open
from distillkit.plugin.registry import installed_plugins
from distillkit.running.metrics import read_metrics
from distillkit.running.start import run
from distillkit.storage import untrusted
from distillkit.storage.untrusted import open_plain, read_json
from tests.data.planted import IRREGULAR, metadata

METADATA = metadata()
SECONDS = 20
"""Generous, since the machine may be busy: an image that hangs takes for ever."""


@pytest.mark.parametrize("what", IRREGULAR)
def test_no_reader_of_pictures_opens_anything_but_a_file(tmp_path, what):
    """Promise: Nothing but a regular file is opened.

    Attempt: A pipe, a socket or a device in a folder of pictures, for `predict`, `verify --data` and `attention`.
    """
    path = tmp_path / "a.png"
    IRREGULAR[what](path)
    for read in (lambda: read_image(path, "RGB"), lambda: _open(path, AS_STORED)):
        with pytest.raises(DataError, match=rf"^image '.*' cannot be read: it is {what}, not a file"):
            read()
    (tmp_path / "no-extension").unlink(missing_ok=True)
    IRREGULAR[what](tmp_path / "no-extension")
    assert list_images(tmp_path).images == ["a.png"]


@pytest.mark.parametrize("what", IRREGULAR)
def test_nothing_but_a_file_is_read_as_json_or_metrics(tmp_path, what):
    """Promise: Nothing but a regular file is opened.

    Attempt: A pipe, a socket or a device in place of a JSON file of a run, for `evaluate` and `profile`.
    """
    IRREGULAR[what](tmp_path / "metrics.jsonl")
    assert read_metrics(tmp_path) == []
    with pytest.raises(ValueError, match=rf"^is {what}, not a file$"):
        read_json(tmp_path / "metrics.jsonl")


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    """Promise: Nothing but a regular file is opened.

    Attempt: A file that is replaced by a pipe after it was inspected.
    """
    os.mkfifo(tmp_path / "x")
    monkeypatch.setattr(untrusted, "require_plain", lambda _: None)
    with pytest.raises(ValueError, match="was replaced while it was opened"):
        open_plain(tmp_path / "x")


def test_a_row_of_metrics_of_any_length_or_depth_is_left_out(tmp_path, monkeypatch):
    """Promise: Memory is bounded by what a valid file needs.

    Attempt: A line of `metrics.jsonl` without an end, or nested a thousand levels deep.
    """
    monkeypatch.setattr("distillkit.running.metrics.LONGEST_LINE", 2_000)
    row = json.dumps({"kind": "steps", "step": 1})
    nested = '{"kind": "steps", "x": ' + "[" * 500 + "]" * 500 + "}"
    (tmp_path / "metrics.jsonl").write_text("\n".join([row, '{"kind": "' + "x" * 9_000 + '"}', nested, row]))
    assert read_metrics(tmp_path) == [{"kind": "steps", "step": 1}] * 2


def test_metrics_of_any_size_are_read_in_part(tmp_path, monkeypatch):
    """Promise: Memory and time are bounded by what a valid file needs.

    Attempt: A `metrics.jsonl` of 1 TiB that takes no room on a disk, for --resume.
    """
    row = json.dumps({"kind": "steps", "step": 1}) + "\n"
    monkeypatch.setattr("distillkit.running.metrics.LARGEST", 10 * len(row))
    (tmp_path / "metrics.jsonl").write_text(row)
    os.truncate(tmp_path / "metrics.jsonl", 2**40)
    assert read_metrics(tmp_path) == [{"kind": "steps", "step": 1}]
    (tmp_path / "metrics.jsonl").write_text(row * 12)
    assert len(read_metrics(tmp_path)) == 10


@pytest.mark.parametrize("depth", [101, 500, 900, 1_100, 200_000])
def test_json_that_is_nested_too_deeply_is_a_sentence(tmp_path, depth):
    """Promise: A file of a third party is refused in a sentence, at any depth.

    Attempt: JSON that is nested more deeply than what reads its value can follow.
    """
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        text = opening * depth + "1" + closing * depth
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"^is nested too deeply$"):
            read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[" * 100 + "]" * 100)
    assert read_json(tmp_path / "x.json")


@pytest.mark.parametrize("case", METADATA)
def test_metadata_take_neither_time_nor_memory(tmp_path, case, peak_bytes):
    """Promise: Time and memory are bounded while an image is read.

    Attempt: ICC, EXIF, XMP or text blocks that unpack without end, lead to themselves or claim any size.
    """
    name, content, is_read = METADATA[case]
    (tmp_path / name).write_bytes(content)
    start = time.perf_counter()
    expected = nullcontext() if is_read else pytest.raises(ValueError, match="Decompressed data too large")
    with without_warnings(), peak_bytes() as peak, expected:
        assert upright(open_rgb(tmp_path / name)).size == (8, 8)
    assert time.perf_counter() - start < SECONDS
    assert peak[0] < 64 * 2**20 + 10 * len(content)


@pytest.mark.parametrize(("segments", "is_read"), [(2, True), (3, False), (3_000, False)])
def test_the_exif_of_a_jpeg_is_limited(tmp_path, monkeypatch, segments, is_read):
    """Promise: Time and memory are bounded while an image is read.

    Attempt: A JPEG with thousands of EXIF segments, which Pillow joins one by one.
    """
    monkeypatch.setattr("distillkit.data.image_faults.LARGEST_EXIF", 130_000)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    segment = b"\xff\xe1" + (60_008).to_bytes(2, "big") + b"Exif\0\0" + bytes(60_000)
    (tmp_path / "x.jpg").write_bytes(content[:2] + segments * segment + content[2:])
    refused = pytest.raises(ImageFault, match=r"^it has more than 130,000 bytes of EXIF$")
    with without_warnings(), nullcontext() if is_read else refused:
        assert open_rgb(tmp_path / "x.jpg").size == (8, 8)


@pytest.fixture
def peak_bytes():
    """`with peak_bytes() as peak:` the memory that Python allocates inside."""
    import tracemalloc
    from contextlib import contextmanager

    @contextmanager
    def watch():
        peak = [0]
        tracemalloc.start()
        try:
            yield peak
            peak[0] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return watch


def test_a_run_on_picture_bombs_counts_and_replaces_them(tmp_path, write_pictures, recipe_of):
    """Promise: Time and memory are bounded while a run reads its images.

    Attempt: Picture bombs, pipes, sockets and devices in the folders that a run trains on.
    """
    root = write_pictures(tmp_path / "data" / "train", {"cat": 40, "dog": 40}).parent
    write_pictures(root / "val", {"cat": 10, "dog": 10})
    planted = {}
    for folder in ("train", "val"):
        for case in ("ICC bomb", "text bomb", "international text bomb"):
            name, content, _ = METADATA[case]
            (root / folder / "cat" / name).write_bytes(content)
            planted[folder, f"cat/{name}"] = "damaged"
        for number, make in enumerate(IRREGULAR.values()):
            make(root / folder / "dog" / f"x{number}.png")
            planted[folder, f"dog/x{number}.png"] = "not-an-image"
        for name, content, _ in (METADATA[case] for case in METADATA if case.startswith("EXIF, a loop")):
            (root / folder / "dog" / name).write_bytes(content)
    tables = {"train": str(root), "broken": 0.9}
    recipe = recipe_of({"data": tables, "training": {"steps": 12}}, {"trackers": []})
    run(recipe, tmp_path / "run", installed_plugins())
    found = json.loads((tmp_path / "run" / "incidents.json").read_text())["broken"]
    names = {"train": "train", "validation": "val"}
    assert {(names[each["split"]], each["key"]): each["kind"] for each in found} == planted
