"""The folder of a bank: which shelf a run without the teacher's weights reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillkit.bank.directory import FORMAT, HEADER, Bank
from distillkit.bank.row_format import RowFormat
from distillkit.contracts.loss import TargetSpec
from distillkit.errors import BankError

CLASS = RowFormat.of({"class": TargetSpec((), "int64")})
WEIGHTS = frozenset({"teacher.weights"})


def facts_of(weights: str | None, **loss: Any) -> dict[str, Any]:
    return {"teacher": {"architecture": "cnn", "weights": weights}, "loss": {"plugin": "hard", **loss}}


def begin(bank: Bank, facts: dict[str, Any]) -> str:
    """Begin a shelf; returns its name."""
    shelf, _ = bank.shelf(facts, CLASS, {})
    return shelf.path.name


def test_the_only_shelf_that_fits_says_which_weights(tmp_path: Path) -> None:
    bank = Bank(tmp_path)
    begin(bank, facts_of("first"))
    begin(bank, facts_of("second", seed=1))
    assert bank.only_fitting(facts_of(None), WEIGHTS) == facts_of("first")


def test_no_shelf_fits(tmp_path: Path) -> None:
    begin(Bank(tmp_path), facts_of("first", seed=1))
    with pytest.raises(BankError) as refused:
        Bank(tmp_path).only_fitting(facts_of(None), WEIGHTS)
    assert str(refused.value) == (
        f"the bank {tmp_path} has no shelf for this run; give the teacher's weights, or fill the bank with "
        "`distillkit bank build`"
    )


def test_several_shelves_fit(tmp_path: Path) -> None:
    names = sorted(begin(Bank(tmp_path), facts_of(weights)) for weights in ("first", "second"))
    with pytest.raises(BankError) as refused:
        Bank(tmp_path).only_fitting(facts_of(None), WEIGHTS)
    assert str(refused.value) == (
        f"several shelves of the bank {tmp_path} fit this run ({', '.join(names)}); give the teacher's weights, or "
        "delete all but one with `distillkit bank prune`"
    )


def test_a_shelf_of_another_format_is_refused(tmp_path: Path) -> None:
    name = begin(Bank(tmp_path), facts_of("first"))
    header = tmp_path / name / HEADER
    header.write_text(json.dumps(json.loads(header.read_text()) | {"format": FORMAT + 1}))
    with pytest.raises(BankError) as refused:
        begin(Bank(tmp_path), facts_of("first"))
    assert str(refused.value) == (
        f"{tmp_path / name} was written in format 2 of target banks, and this version reads format 1; use another "
        "folder for the bank"
    )
