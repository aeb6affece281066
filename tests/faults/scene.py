"""The starting point of every harness: a teacher, and an undisturbed run."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.faults.equality import differences
from tests.faults.moments import NEVER
from tests.faults.victim import LOSSES, TEACHER, Victim, arguments, fresh, settings

Start = Callable[[list[str], Path], Victim]
SHORT = {"training__steps": 24, "trackers": '["metrics"]'}
BankState = Literal["empty", "full", "incomplete and read-only"]
"""The bank of a run before its start; an incomplete one lacks all views but the first."""
NAMES_THE_BANK = {"recipe.toml", "plan.json"}
"""Files of a run that contain the path of its bank."""


@dataclass(frozen=True)
class Scene:
    """A teacher and the undisturbed run, the latter's start-up and training time, its losses and its settings.

    `changes` override `victim.EVERYTHING`. With `bank` each run has a bank of its own; the undisturbed run fills one.
    """

    teacher: Path
    undisturbed: Path
    start_s: float
    steps_s: float
    changes: Mapping[str, Any] = field(default_factory=dict)
    bank: BankState | None = None
    losses: Sequence[str] = LOSSES

    @classmethod
    def prepared(
        cls,
        folder: Path,
        start: Start = fresh,
        *,
        bank: BankState | None = None,
        losses: Sequence[str] = LOSSES,
        **changes: Any,
    ) -> Scene:
        """Train both, each in a new interpreter or as `start` does it."""
        teacher, undisturbed = folder / "teacher", folder / "undisturbed"
        of_bank = _setting(undisturbed) if bank else {}
        run = arguments(teacher, undisturbed, losses, **changes, **of_bank)
        for given in (["run", "--out", str(teacher), *settings(TEACHER)], run):
            started_at = time.time()
            victim = start(given, folder / "prepared.log")
            NEVER.strike(victim, undisturbed)
            if victim.code:
                raise SystemExit(f"the undisturbed run failed: {victim.output()}")
        created, trained = ((undisturbed / name).stat().st_mtime for name in ("recipe.toml", "student.safetensors"))
        start_s, steps_s = round(created - started_at, 3), round(trained - created, 3)
        return cls(teacher, undisturbed, start_s, steps_s, changes, bank, losses)

    def arguments(self, out: Path, **changes: Any) -> list[str]:
        """The command line of the same run in another directory."""
        of_bank = _setting(out) if self.bank else {}
        return arguments(self.teacher, out, self.losses, **{**self.changes, **of_bank, **changes})

    def lay_out_bank(self, out: Path) -> None:
        """Make the bank of a run that has not started yet."""
        if self.bank in (None, "empty"):
            return
        bank = bank_of(out)
        shutil.copytree(bank_of(self.undisturbed), bank)
        for path in [file for file in bank.rglob("*.rows") if not self._keeps(file)]:
            path.unlink()
        if self.bank == "incomplete and read-only":
            for path in (*bank.rglob("*"), bank):
                path.chmod(0o555 if path.is_dir() else 0o444)

    def differences(self, out: Path) -> list[str]:
        """The files of a finished run and of its bank that are not bit-equal to those of the undisturbed one.

        Recipe and plan are not compared where they name different banks.
        """
        if self.bank is None:
            return differences(self.undisturbed, out)
        expected = {name: content for name, content in _stored(self.undisturbed).items() if self._keeps(Path(name))}
        found, stored = differences(self.undisturbed, out, apart_from=NAMES_THE_BANK), _stored(out)
        names = sorted(expected.keys() | stored.keys())
        return found + [f"bank: {name}" for name in names if expected.get(name) != stored.get(name)]

    def remove(self, out: Path) -> None:
        """Delete a run, its bank and its log."""
        shutil.rmtree(out)
        out.with_suffix(".log").unlink()
        if self.bank is not None:
            for folder in (bank_of(out), *filter(Path.is_dir, bank_of(out).rglob("*"))):
                folder.chmod(0o755)
            shutil.rmtree(bank_of(out))

    def _keeps(self, file: Path) -> bool:
        """Whether a file of the undisturbed run's bank is also in that of a run at its end."""
        return self.bank != "incomplete and read-only" or not file.match("view-*") or file.match("view-00000-*")


def bank_of(out: Path) -> Path:
    """The bank of a run."""
    return Path(f"{out}-bank")


def _setting(out: Path) -> dict[str, str]:
    return {"bank": json.dumps(str(bank_of(out)))}


def _stored(out: Path) -> dict[str, bytes]:
    """The files of a run's bank, by name."""
    bank = bank_of(out)
    return {path.relative_to(bank).as_posix(): path.read_bytes() for path in bank.rglob("*") if path.is_file()}
