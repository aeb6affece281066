"""Target banks with damaged or made-up files: the rows that were written, or a one-line error."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillkit.bank import inventory
from distillkit.bank.directory import HEADER, LARGEST_ROW, Bank
from distillkit.bank.row_format import RowFormat
from distillkit.bank.shelf import plane_name
from distillkit.contracts.loss import TargetSpec
from distillkit.errors import BankError

FUZZ = settings.get_profile("fuzz")
FACTS = {
    "teacher": {"architecture": "timm:resnet18", "weights": "f3a1"},
    "loss": {"plugin": "soft", "options": {}, "reads": [["logits"]]},
    "data": {"images": "99aa", "seed": 0},
}
ROWS = RowFormat.of({"class": TargetSpec((), "int64"), "logits": TargetSpec((3,), "float32", exact=False)})
PLACES = np.array([(image, view, 0, 7 * image) for image in range(6) for view in range(2)], np.int64)  # [12, 4]
PAYLOADS = np.random.default_rng(0).integers(0, 256, (len(PLACES), ROWS.bytes), np.uint8)
UNKNOWN = frozenset({"teacher.weights"})

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, -1, 2**31, 2**40, 10**30])
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["../../x", "/etc/passwd", "\0", "\x1b[2J", "teacher.architecture", FACTS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
awkward_texts = st.sampled_from(["", "null", "[]", "{", "[" * 100_000, '{"format": 1, "format": 1}', "9" * 5_000, "\0"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A bank of one shelf with two planes."""
    path = tmp_path_factory.mktemp("banks") / "bank"
    shelf, _ = Bank(path).shelf(FACTS, ROWS, {"packages": {"torch": "2"}, "device": "cpu"})
    shelf.write(PLACES, PAYLOADS)
    shelf.close()
    return path


@pytest.fixture
def copied(whole, tmp_path):
    """`copied()`: a copy of the bank, and the folder of its shelf."""

    def copy() -> tuple[Bank, Path]:
        there = tmp_path / "bank"
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(whole, there)
        return Bank(there), next(there.iterdir())

    return copy


def used(bank: Bank):
    """All that a plan, a run, `bank info` and `bank prune` read of a bank; returns the rows of a run."""
    facts = bank.only_fitting(FACTS, UNKNOWN)
    bank.nearest(FACTS)
    shelf, header = bank.shelf(facts, ROWS, {"packages": {}, "device": "cpu"})
    found = [(content.header.path.name, content.rows, content.bytes) for content in inventory.contents(bank)]
    assert inventory.bytes_on_disk(bank) == sum(size for _, _, size in found)
    inventory.unused(bank, 30.0)
    inventory.named(bank, [header.path.name])
    try:
        return shelf.read(PLACES)
    finally:
        shelf.close()


def places(value, path=()):
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


@settings(FUZZ, max_examples=6 * FUZZ.max_examples)
@given(data=st.data(), text=st.none() | st.none() | awkward_texts)
def test_headers(attempt, copied, data, text):
    bank, shelf = copied()
    if text is None:
        header = json.loads((shelf / HEADER).read_text())
        *path, last = data.draw(st.sampled_from([place for place in places(header) if place]))
        inner = header
        for key in path:
            inner = inner[key]
        if isinstance(inner, dict) and data.draw(st.integers(0, 3)) == 0:
            inner[data.draw(st.sampled_from(["teacher.weights", "a.b", "key"]) | st.text(max_size=8))] = inner.pop(last)
        else:
            inner[last] = data.draw(json_values)
        text = json.dumps(header)
    (shelf / HEADER).write_text(text)
    attempt("target bank, shelf.json made up", lambda: used(bank))
    attempt("target bank, shelf.json made up", lambda: bank.shelf(FACTS, ROWS, {}))


@settings(FUZZ, max_examples=6 * FUZZ.max_examples)
@given(data=st.data(), view=st.integers(0, 1))
def test_planes(attempt, copied, data, view):
    """A row is read only as it was written: it is missing where a bit differs."""
    bank, shelf = copied()
    plane = shelf / plane_name(view, 0)
    content = bytearray(plane.read_bytes())
    how = data.draw(st.sampled_from(["flip", "cut", "insert", "swap", "random"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if how == "flip":
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "insert":
        content[place:place] = data.draw(st.binary(min_size=1, max_size=40))
    elif how == "swap":
        content = content[place:] + content[:place]
    else:
        content[place:] = b"" if how == "cut" else data.draw(st.binary(max_size=99))
    plane.write_bytes(content)
    rows, hits = attempt("target bank, a file of rows corrupted", lambda: used(bank))
    assert np.array_equal(rows[hits], PAYLOADS[hits])
    assert hits[PLACES[:, 1] != view].all()


STRANGE = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a loop": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "1 TB": lambda path: (path.touch(), os.truncate(path, 10**12)),
    "nothing": lambda _: None,
}


@pytest.mark.parametrize("name", [HEADER, plane_name(1, 0)])
@pytest.mark.parametrize("what", STRANGE)
def test_something_else_in_place_of_a_file(attempt, copied, name, what):
    bank, shelf = copied()
    (shelf / name).unlink()
    STRANGE[what](shelf / name)

    def read():
        # A run counts an error of the system as missing rows, see `training.target_bank`.
        opened, _ = bank.shelf(FACTS, ROWS, {})
        try:
            rows, hits = opened.read(PLACES)
        except OSError as error:
            raise BankError(str(error)) from None
        finally:
            opened.close()
        return rows, hits, [content.rows for content in inventory.contents(bank)]

    found = attempt("target bank, something else in place of a file", read)
    if found is not None:
        rows, hits, _ = found
        assert np.array_equal(rows[hits], PAYLOADS[hits])


def with_header(shelf: Path, **changes):
    header = json.loads((shelf / HEADER).read_text())
    (shelf / HEADER).write_text(json.dumps({**header, **changes}))


@pytest.mark.parametrize("row_bytes", [LARGEST_ROW + 1, 10**30])
def test_a_row_of_exabytes_is_not_allocated(attempt, copied, row_bytes):
    bank, shelf = copied()
    with_header(shelf, row_bytes=row_bytes)
    os.truncate(shelf / plane_name(0, 0), 10**12)
    assert attempt("target bank, shelf.json made up", lambda: used(bank)) is None
    opened, _ = bank.shelf(FACTS, ROWS, {})  # begins the header again; the rows stay
    assert opened.read(PLACES)[1].all()
    opened.close()


def test_a_large_hole_is_not_read(attempt, copied):
    bank, shelf = copied()
    os.truncate(shelf / plane_name(0, 0), 10**12)
    assert attempt("target bank, a file of rows corrupted", lambda: used(bank))[1].all()
    assert [content.rows for content in inventory.contents(bank)] == [len(PLACES)]


def test_facts_that_are_nested_too_deeply_are_damaged(copied):
    bank, shelf = copied()
    text = (shelf / HEADER).read_text()
    (shelf / HEADER).write_text(text.replace('"f3a1"', '{"a":' * 900 + "1" + "}" * 900))
    assert list(bank.headers()) == []


def test_facts_with_dotted_names_are_not_used_as_they_are(copied):
    """They compare equal to nested facts."""
    bank, shelf = copied()
    flat = {f"{table}.{name}": value for table, values in FACTS.items() for name, value in values.items()}
    with_header(shelf, key={**flat, "teacher.weights": "other"})
    assert bank.only_fitting(FACTS, UNKNOWN) == {**FACTS, "teacher": {**FACTS["teacher"], "weights": "other"}}


def test_a_format_of_any_length_is_named_in_short(copied):
    bank, shelf = copied()
    with_header(shelf, format="x" * 99_999)
    with pytest.raises(BankError) as caught:
        list(bank.headers())
    assert len(str(caught.value)) < 500
