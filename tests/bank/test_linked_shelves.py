"""A shelf that is a link is refused: filling it would write rows elsewhere."""

import os

import numpy as np
import pytest

from distillkit.bank.directory import Bank
from distillkit.bank.row_format import RowFormat
from distillkit.contracts.loss import TargetSpec
from distillkit.errors import BankError

ROWS = np.ones((1, 8), np.uint8)
ADDRESS = np.array([[0, 0, 0, 7]], np.int64)
FORMAT = RowFormat.of({"class": TargetSpec((), "int64")})
FACTS = {"teacher": {"architecture": "resnet18"}, "loss": {"plugin": "hard"}}


@pytest.mark.parametrize("is_filled", [True, False])
def test_no_row_is_written_through_a_linked_shelf(tmp_path, is_filled):
    """Promise: A linked folder inside a run, bundle or bank is refused.

    Attempt: A target bank with a link in place of a shelf, to a folder elsewhere.
    """
    shelf, _ = Bank(tmp_path / "bank").shelf(FACTS, FORMAT, {})
    outside = shelf.path.rename(tmp_path / "outside")
    if not is_filled:
        (outside / "shelf.json").unlink()
    shelf.path.symlink_to(outside)
    before = sorted(outside.iterdir())
    with pytest.raises(BankError) as refused:
        Bank(tmp_path / "bank").shelf(FACTS, FORMAT, {})
    assert str(refused.value) == (
        f"{shelf.path} is a link, and distillkit writes only inside a run, bundle or bank itself; replace the "
        "link with what it leads to, or delete it"
    )
    assert sorted(outside.iterdir()) == before


def test_no_row_is_written_to_a_plane_with_a_second_name(tmp_path):
    """Promise: Nothing outside a run, bundle or bank is written through a link.

    Attempt: A target bank with a hard link in place of a plane, to a file elsewhere.
    """
    shelf, _ = Bank(tmp_path / "bank").shelf(FACTS, FORMAT, {})
    shelf.write(ADDRESS, ROWS)
    shelf.close()
    plane = shelf.path / "view-00000-repeat-00000.rows"
    (tmp_path / "backup").hardlink_to(plane)
    before = plane.read_bytes()
    _, hits = shelf.read(ADDRESS)  # as before: only writing is refused
    assert hits.all()
    with pytest.raises(OSError, match=r"^\[Errno 31\] it would be changed under its other names too; copy the bank: "):
        shelf.write(np.array([[1, 0, 0, 7]]), ROWS)
    assert (tmp_path / "backup").read_bytes() == before


def test_the_time_of_a_file_elsewhere_is_not_changed(tmp_path):
    """Promise: Nothing outside a run, bundle or bank is written through a link.

    Attempt: A target bank with a link in place of `shelf.json`, whose time says when it was last used.
    """
    shelf, _ = Bank(tmp_path / "bank").shelf(FACTS, FORMAT, {})
    outside = (shelf.path / "shelf.json").rename(tmp_path / "outside")
    os.utime(outside, (1_000, 1_000))
    (shelf.path / "shelf.json").symlink_to(outside)
    Bank(tmp_path / "bank").shelf(FACTS, FORMAT, {})
    assert outside.stat().st_mtime == 1_000
