"""Shelf: only a row that was written for the same pixels is read back."""

from __future__ import annotations

import errno
import os
import sys

import numpy as np
import pytest

from distillkit.bank.row_format import RowFormat
from distillkit.bank.shelf import OPEN_PLANES, Shelf, plane_name, planes
from distillkit.contracts.loss import TargetSpec

FORMAT = RowFormat.of({"class": TargetSpec((), "int64")})
KEY = b"0123456789abcdef"


@pytest.fixture
def shelf(tmp_path):
    made = Shelf(tmp_path, KEY, FORMAT, writable=True)
    yield made
    made.close()


def addresses(*rows):
    return np.array(rows, np.int64).reshape(-1, 4)


def payloads(*values):
    return np.array(values, "<i8").reshape(-1, 1).view(np.uint8)


def values_of(rows):
    return np.ascontiguousarray(rows).view("<i8").ravel().tolist()


def test_rows_are_read_back_at_their_image_view_and_repeat(shelf, tmp_path):
    places = addresses((5, 0, 0, 11), (2, 0, 1, -12), (5, 3, 0, 13))
    shelf.write(places, payloads(50, 20, 53))
    rows, hits = shelf.read(places[::-1])
    assert hits.tolist() == [True, True, True]
    assert values_of(rows) == [53, 20, 50]
    assert [(view, repeat) for view, repeat, _ in planes(tmp_path)] == [(0, 0), (0, 1), (3, 0)]


def test_a_plane_holds_a_row_per_image_at_its_number(shelf, tmp_path):
    shelf.write(addresses((3, 0, 0, 1)), payloads(7))
    content = (tmp_path / plane_name(0, 0)).read_bytes()
    assert len(content) == 4 * 16  # rows 0 to 3, 8 bytes of target and 8 of check each
    assert content[:48] == bytes(48)
    assert int.from_bytes(content[48:56], "little") == 7


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((4, 0, 0, 1), id="another image"),
        pytest.param((3, 1, 0, 1), id="another view"),
        pytest.param((3, 0, 1, 1), id="another repeat"),
        pytest.param((3, 0, 0, 2), id="the same image shown differently"),
    ],
)
def test_a_row_of_other_pixels_is_missing(shelf, other):
    shelf.write(addresses((3, 0, 0, 1)), payloads(7))
    assert shelf.read(addresses(other))[1].tolist() == [False]


def test_a_row_of_another_key_is_missing(shelf, tmp_path):
    shelf.write(addresses((3, 0, 0, 1)), payloads(7))
    other = Shelf(tmp_path, b"f" * 16, FORMAT, writable=False)
    assert other.read(addresses((3, 0, 0, 1)))[1].tolist() == [False]
    other.close()


def test_every_flipped_bit_makes_the_row_missing(shelf, tmp_path):
    place = addresses((1, 0, 0, 9))
    shelf.write(place, payloads(7))
    path = tmp_path / plane_name(0, 0)
    whole = path.read_bytes()
    for bit in range(16 * 8):
        damaged = bytearray(whole)
        damaged[16 + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert shelf.read(place)[1].tolist() == [False]
    path.write_bytes(whole)
    assert shelf.read(place)[1].tolist() == [True]


def test_a_plane_that_was_cut_off_loses_only_the_rows_behind_the_cut(shelf, tmp_path):
    places = addresses((0, 0, 0, 1), (1, 0, 0, 2))
    shelf.write(places, payloads(10, 11))
    os.truncate(tmp_path / plane_name(0, 0), 31)
    assert shelf.read(places)[1].tolist() == [True, False]
    shelf.write(places[1:], payloads(11))
    rows, hits = shelf.read(places)
    assert hits.all()
    assert values_of(rows) == [10, 11]


def test_two_writers_fill_one_plane(shelf, tmp_path):
    other = Shelf(tmp_path, KEY, FORMAT, writable=True)
    places = addresses(*((image, 0, 0, image + 100) for image in range(64)))
    for image in range(64):
        (shelf if image % 2 else other).write(places[image : image + 1], payloads(image))
    for reader in (shelf, other):
        rows, hits = reader.read(places)
        assert hits.all()
        assert values_of(rows) == list(range(64))
    other.close()


def test_more_planes_than_are_kept_open(shelf):
    places = addresses(*((0, view, 0, view) for view in range(OPEN_PLANES + 5)))
    shelf.write(places, payloads(*range(OPEN_PLANES + 5)))
    rows, hits = shelf.read(places)
    assert hits.all()
    assert values_of(rows) == list(range(OPEN_PLANES + 5))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_in_place_of_a_plane_is_not_waited_for(shelf, tmp_path):
    os.mkfifo(tmp_path / plane_name(0, 0))
    with pytest.raises(OSError, match="it is not a regular file"):
        shelf.read(addresses((0, 0, 0, 1)))


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission on Windows")
def test_a_link_in_place_of_a_plane_is_not_followed(shelf, tmp_path):
    outside = tmp_path.parent / "outside"
    outside.write_bytes(b"keep")
    (tmp_path / plane_name(0, 0)).symlink_to(outside)
    with pytest.raises(OSError, match="symbolic links"):
        shelf.write(addresses((0, 0, 0, 1)), payloads(1))
    assert outside.read_bytes() == b"keep"


WINDOWS_LACKS = ("pread", "pwrite", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")


@pytest.fixture
def without_posix(monkeypatch):
    """`os` as on Windows, which has neither reads and writes at a position nor the flags."""
    for name in WINDOWS_LACKS:
        monkeypatch.delattr(os, name, raising=False)


@pytest.mark.usefixtures("without_posix")
def test_without_positioned_reads_and_writes(shelf, tmp_path):
    places = addresses((5, 0, 0, 11), (2, 0, 0, -12), (5, 3, 0, 13), (6, 0, 0, 1))
    shelf.write(places[:3], payloads(50, 20, 53))
    rows, hits = shelf.read(places)
    assert hits.tolist() == [True, True, True, False]
    assert values_of(rows[:3]) == [50, 20, 53]
    os.truncate(tmp_path / plane_name(0, 0), 5 * 16 + 3)
    assert shelf.read(places)[1].tolist() == [False, True, True, False]


@pytest.mark.usefixtures("without_posix")
def test_without_its_flag_a_link_is_not_followed_either(shelf, tmp_path):
    outside = tmp_path.parent / "outside"
    outside.write_bytes(b"keep")
    (tmp_path / plane_name(0, 0)).symlink_to(outside)
    with pytest.raises(OSError, match="it is a link"):
        shelf.write(addresses((0, 0, 0, 1)), payloads(1))
    assert outside.read_bytes() == b"keep"


@pytest.mark.usefixtures("without_posix")
def test_without_positioned_writes_a_full_disk_is_an_error(shelf, monkeypatch):
    write = os.write

    def full(file, content):
        if len(content) < 16:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content[:9])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left on device"):
        shelf.write(addresses((1, 0, 0, 1)), payloads(7))
    assert shelf.read(addresses((1, 0, 0, 1)))[1].tolist() == [False]
