"""The starting point of every harness: a teacher, and an undisturbed run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.moments import NEVER
from tests.faults.victim import TEACHER, Victim, arguments, fresh, settings

Start = Callable[[list[str], Path], Victim]
SHORT = {"training__steps": 24, "trackers": '["metrics"]'}


@dataclass(frozen=True)
class Scene:
    """A teacher and the undisturbed run, the latter's start-up and training time, and its settings.

    `changes` override `victim.EVERYTHING`.
    """

    teacher: Path
    undisturbed: Path
    start_s: float
    steps_s: float
    changes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def prepared(cls, folder: Path, start: Start = fresh, **changes: Any) -> Scene:
        """Train both, each in a new interpreter or as `start` does it."""
        teacher, undisturbed = folder / "teacher", folder / "undisturbed"
        for given in (["run", "--out", str(teacher), *settings(TEACHER)], arguments(teacher, undisturbed, **changes)):
            started_at = time.time()
            victim = start(given, folder / "prepared.log")
            NEVER.strike(victim, undisturbed)
            if victim.code:
                raise SystemExit(f"the undisturbed run failed: {victim.output()}")
        created, trained = ((undisturbed / name).stat().st_mtime for name in ("recipe.toml", "student.safetensors"))
        return cls(teacher, undisturbed, round(created - started_at, 3), round(trained - created, 3), changes)

    def arguments(self, out: Path, **changes: Any) -> list[str]:
        """The command line of the same run in another directory."""
        return arguments(self.teacher, out, **{**self.changes, **changes})
