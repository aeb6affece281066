"""What a tracker may know about the run it follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    """A run as trackers see it.

    `directory` is the run directory. `recipe` is the resolved recipe as plain data. `plan` is what
    `distillkit plan --json` prints. `start_step` is 0, or the step from which the run was resumed.
    """

    directory: Path
    recipe: Mapping[str, Any]
    plan: Mapping[str, Any]
    steps: int
    steps_per_epoch: int
    start_step: int = 0
