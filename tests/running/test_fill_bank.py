"""Filling a bank without a student, and comparing it with the teacher."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillkit.bank import shelf as shelf_module
from distillkit.errors import BankError
from distillkit.planning.plan import Plan
from distillkit.plugin.registry import installed_plugins
from distillkit.running.fill_bank import ShelfCheck, check_bank, fill_bank
from distillkit.running.start import plan, run

STEPS = 3
ROWS = STEPS * 64


@pytest.fixture
def planned(recipe_of: Any, teacher_run: str, tmp_path: Path) -> Any:
    """Plan a run of `STEPS` steps with two losses; with a bank unless `bank` is None."""

    def make(bank: str | None = "bank") -> Plan:
        losses = [{"loss": "hard"}, {"loss": "soft"}]
        tables: dict[str, Any] = {"teachers": [{"model": teacher_run}], "losses": losses, "labels": {"weight": 0.5}}
        if bank is not None:
            tables["bank"] = str(tmp_path / bank)
        return plan(recipe_of(tables, {"training": {"steps": STEPS}}), installed_plugins())

    return make


def ignored(done: int, total: int) -> None:
    assert 0 < done <= total


def test_a_run_reads_what_was_filled(planned: Any, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    filled = fill_bank(planned(), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (ROWS, ROWS)
    assert {name: (use.read, use.computed, use.written) for name, use in filled.uses.items()} == {
        "hard": (0, ROWS, ROWS),
        "soft": (0, ROWS, ROWS),
    }
    assert run(planned().recipe, tmp_path / "run", installed_plugins()).steps == STEPS
    again = fill_bank(planned(), ignored)
    assert [use.written for use in again.uses.values()] == [0, 0]


def test_a_filled_bank_is_equal_to_the_teacher(planned: Any) -> None:
    assert check_bank(planned(), 100, ignored) == dict.fromkeys(("hard", "soft"), ShelfCheck(missing=2 * 64))
    fill_bank(planned(), ignored)
    assert check_bank(planned(), ROWS, ignored) == dict.fromkeys(("hard", "soft"), ShelfCheck(stored=ROWS))


def test_stored_targets_that_differ_are_counted(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_bank(planned(), ignored)
    read = shelf_module.Shelf.read

    def zeros(self: Any, addresses: Any) -> Any:
        rows, hits = read(self, addresses)
        return np.zeros_like(rows), hits

    monkeypatch.setattr(shelf_module.Shelf, "read", zeros)
    assert check_bank(planned(), ROWS, ignored)["soft"] == ShelfCheck(stored=ROWS, different=ROWS)


def test_without_a_bank(planned: Any) -> None:
    for work in (lambda plan: fill_bank(plan, ignored), lambda plan: check_bank(plan, 1, ignored)):
        with pytest.raises(BankError) as refused:
            work(planned(None))
        assert str(refused.value) == "there is no bank; give --bank DIR"


def test_a_full_disk_ends_the_work(planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shelf_module.os, "pwrite", full)
    with pytest.raises(BankError) as error:
        fill_bank(planned(), ignored)
    [shelf, _] = sorted((tmp_path / "bank").iterdir(), key=lambda path: "soft" in path.name)
    assert str(error.value) == f"cannot write {shelf} ([Errno 28] No space left on device); no more targets are stored"


def test_rows_that_cannot_be_read_are_not_called_missing(planned: Any, tmp_path: Path) -> None:
    fill_bank(planned(), ignored)
    [shelf, _] = sorted((tmp_path / "bank").iterdir(), key=lambda path: "soft" in path.name)
    for path in shelf.glob("*.rows"):
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BankError) as error:
        check_bank(planned(), ROWS, ignored)
    assert str(error.value) == (
        f"{shelf} cannot be read or changed (Too many levels of symbolic links); change its permissions, or those of "
        "its folder"
    )
