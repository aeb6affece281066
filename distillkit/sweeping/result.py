"""The result of a sweep: one row per arm, as plain data and as cells of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from distillkit.running.directory import RunDirectory
from distillkit.sweeping.grid import ArmSettings

ArmState = Literal["new", "started", "done", "failed", "pruned"]


@dataclass(frozen=True)
class SweepRow:
    """An arm: what it sets, its run directory, its state, and the figures of a finished one.

    `figures` are named `<split>/<figure>`; accuracies are in percent. `why` is the error of a failed arm, or the epoch
    after which an arm was pruned. `command` starts the arm without the sweep, or continues it.
    """

    name: str
    settings: ArmSettings
    directory: Path
    command: str
    state: ArmState = "new"
    why: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    duration_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The row as plain data."""
        return {**vars(self), "settings": dict(self.settings), "directory": str(self.directory)}


@dataclass(frozen=True)
class SweepResult:
    """The arms of a sweep in the order of its grid, and the folder that holds their run directories.

    `best` is the name of the trial of a search with the best figure on validation images. `is_search` is on for the
    trials of a search.
    """

    directory: Path
    arms: tuple[SweepRow, ...]
    best: str | None = None
    is_search: bool = False

    def in_state(self, state: ArmState) -> tuple[SweepRow, ...]:
        """The arms in a state."""
        return tuple(arm for arm in self.arms if arm.state == state)

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        best = {} if self.best is None else {"best": self.best}
        return {"sweep": str(self.directory), **best, "arms": [arm.as_dict() for arm in self.arms]}


def finished(row: SweepRow) -> SweepRow:
    """The row of an arm whose run is finished, with its figures. Raises: RunDirectoryError for a damaged result."""
    found = RunDirectory(row.directory).read_result()
    return replace(row, state="done", figures=found["figures"], duration_s=found.get("duration_s"))
