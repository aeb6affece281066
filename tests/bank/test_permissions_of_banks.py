"""A bank without permission to read or delete its files: one sentence."""

import codecs

import numpy as np
import pytest

from distillkit.bank.directory import Bank
from distillkit.bank.inventory import bytes_on_disk, contents, delete
from distillkit.bank.row_format import RowFormat
from distillkit.contracts.loss import TargetSpec
from tests.another_user import as_other_user

FORMAT = RowFormat.of({"class": TargetSpec((), "int64")})
FACTS = {"teacher": {"architecture": "resnet18"}, "loss": {"plugin": "hard"}}


@pytest.fixture
def shelf(shared_folder):
    """The folder of a shelf with one row."""
    made, header = Bank(shared_folder / "bank").shelf(FACTS, FORMAT, {})
    made.write(np.zeros((1, 4), np.int64), np.zeros((1, 8), np.uint8))
    made.close()
    codecs.lookup("utf-8-sig")  # the other user may not be able to import its module
    return header.path


def sentence(path):
    return (
        f"BankError: {path} cannot be read or changed (Permission denied); change its permissions, or those of its "
        "folder"
    )


def test_a_file_of_rows(shelf):
    next(shelf.glob("*.rows")).chmod(0)
    assert as_other_user(lambda: list(contents(Bank(shelf.parent)))) == sentence(shelf)


def test_a_folder_that_cannot_be_listed(shelf):
    shelf.parent.chmod(0)
    assert as_other_user(lambda: list(Bank(shelf.parent).headers())) == sentence(shelf.parent)


def test_a_shelf_that_cannot_be_listed(shelf):
    shelf.chmod(0o111)
    assert as_other_user(lambda: bytes_on_disk(Bank(shelf.parent))) == sentence(shelf)


def test_a_shelf_that_cannot_be_deleted(shelf):
    [header] = Bank(shelf.parent).headers()
    assert as_other_user(lambda: delete(header)) == sentence(shelf)
    assert len(list(shelf.iterdir())) == 2
