"""Which checkpoints a run has. Does not import torch."""

from __future__ import annotations

from pathlib import Path

from distillkit.contracts.student_directory import CHECKPOINT

MANIFEST = "manifest.json"


def checkpoint_at(directory: Path, step: int) -> Path:
    """The directory of the checkpoint of a step."""
    return directory / f"step-{step:08d}"


def checkpoints(directory: Path) -> list[Path]:
    """The complete checkpoints below `directory`, oldest first."""
    found = (path.parent for path in directory.glob(f"step-*/{MANIFEST}"))
    return sorted((path for path in found if CHECKPOINT.fullmatch(path.name)), key=step_of)


def step_of(path: Path) -> int:
    """The optimiser step of a checkpoint, from its name."""
    return int(path.name.removeprefix("step-"))
