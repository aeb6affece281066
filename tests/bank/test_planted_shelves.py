"""A shelf whose header claims any size of a row: it is not read."""

import json

import pytest

from distillkit.bank.directory import Bank
from distillkit.bank.inventory import contents
from distillkit.bank.row_format import RowFormat
from distillkit.contracts.loss import TargetSpec

FORMAT = RowFormat.of({"class": TargetSpec((), "int64")})
FACTS = {"teacher": {"architecture": "resnet18"}, "loss": {"plugin": "hard"}}


@pytest.mark.parametrize("row_bytes", [10**30, 10**11, 0, -5])
def test_a_shelf_does_not_say_how_much_memory_is_taken(tmp_path, row_bytes):
    """Promise: Memory is bounded by what a valid file needs.

    Attempt: A target bank whose shelf claims rows of any size, for `distillkit bank info`.
    """
    bank = Bank(tmp_path / "bank")
    shelf, _ = bank.shelf(FACTS, FORMAT, {})
    (shelf.path / "view-00000-repeat-00000.rows").write_bytes(bytes(32))
    assert [found.header.row_bytes for found in contents(bank)] == [FORMAT.bytes + 8]
    file = shelf.path / "shelf.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"row_bytes": row_bytes}))
    assert list(contents(bank)) == []
