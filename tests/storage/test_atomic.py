"""Files are complete or absent, with several writers, long names and full disks too."""

import os
import threading

import pytest

from distillkit.storage.atomic import (
    LONGEST_STEM,
    delete_temporary_files,
    stem_of,
    temporary_name,
    write_bytes,
    write_json,
    write_text,
)

ROUNDS = 20


def test_two_writers_of_one_file_do_not_mix_their_content(tmp_path):
    """Under one temporary name, one writer would rename the half-written file of the other."""
    contents = [bytes([letter]) * 300_000 for letter in b"ab"]
    errors = []

    def write(content):
        for _ in range(ROUNDS):
            try:
                write_bytes(tmp_path / "file", content)
                assert (tmp_path / "file").read_bytes() in contents
            except BaseException as error:  # noqa: BLE001 - a thread would swallow it
                errors.append(error)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["n" * 252, "ü" * 127, "n" * 255])
def test_the_longest_names_can_be_written(tmp_path, name):
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_long_names_with_the_same_start_have_different_stems():
    stems = {stem_of("n" * length) for length in range(150, 256)}
    assert len(stems) == 106
    assert max(map(len, stems)) == LONGEST_STEM
    assert len(os.fsencode(stem_of("ü" * 127))) <= LONGEST_STEM


def test_an_error_leaves_the_earlier_file_and_nothing_else(tmp_path):
    write_json(tmp_path / "file", {"a": 1})
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "folder", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_only_temporary_files_are_deleted(tmp_path):
    kept = (".file.tmp", ".file.01234567", "x.01234567.tmp", ".env", ".file.0123456.tmp")
    for name in (*kept, temporary_name("file"), temporary_name("n" * 255)):
        (tmp_path / name).touch()
    delete_temporary_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
