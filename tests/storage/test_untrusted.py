"""Untrusted files: which are read, and the message for all others."""

import math
import os

import pytest

from distillkit.storage.untrusted import parse_json, read_json, read_plain_text


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}),
        (b'\xef\xbb\xbf{"a": "\xc3\xa9"}', {"a": "é"}),
        (b"[Infinity]", [math.inf]),
    ],
    ids=["plain", "byte order mark", "not finite"],
)
def test_json_is_read(tmp_path, content, value):
    (tmp_path / "x.json").write_bytes(content)
    assert read_json(tmp_path / "x.json") == value


@pytest.mark.parametrize(
    ("text", "problem", "cause"),
    [
        ("{", "is not valid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))", None),
        ('{"a": 1, "a": 2}', "is not valid JSON (it has a duplicate key)", "it has a duplicate key"),
        ("[NaN]", "is not valid JSON (NaN is not a JSON number)", "NaN is not a JSON number"),
        ("[" * 200_000, "is nested too deeply", None),
    ],
    ids=["truncated", "duplicate key", "not finite", "nested"],
)
def test_invalid_json_is_an_error_that_ends_a_sentence(text, problem, cause):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(text, finite=True)
    assert str(caught.value) == problem
    assert cause in (None, str(caught.value.__cause__))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (os.mkfifo, "is a pipe, not a file"),
        (lambda path: path.mkdir(), "is a directory, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
        (lambda path: path.write_bytes(b"\xff"), "is not text in UTF-8"),
        (lambda path: path.write_bytes(b"four!"), "has 5 bytes, more than the limit of 4"),
    ],
    ids=["pipe", "directory", "device", "bytes", "large"],
)
def test_anything_but_a_small_text_file_is_an_error_that_ends_a_sentence(tmp_path, make, problem):
    make(tmp_path / "x")
    with pytest.raises(ValueError, match=r".") as caught:
        read_plain_text(tmp_path / "x", largest=4)
    assert str(caught.value) == problem
