"""Directories of a run that hold a student: the run itself, best/, ema/, and its checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

from distillkit.errors import RunDirectoryError

RECIPE, DESCRIPTION, CHECKPOINT_WEIGHTS = "recipe.toml", "student.json", "task.safetensors"
"""Files that mark a run, a saved student, and a checkpoint."""
CHECKPOINT = re.compile(r"step-(\d{8,})")
"""Name of the directory of a checkpoint."""


def run_of(directory: Path) -> Path | None:
    """The run directory that contains `directory`, or `directory` itself if it is one; None for another directory."""
    # Unresolved paths first, to keep messages short. "." has parents only after it is resolved.
    candidates = (directory, directory.parent, directory.parent.parent, *directory.resolve().parents[:2])
    return next((folder for folder in candidates if is_run(folder)), None)


def is_run(directory: Path) -> bool:
    """Whether a directory is that of a run."""
    return (directory / RECIPE).is_file()


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory is a checkpoint of a run."""
    return (directory / CHECKPOINT_WEIGHTS).is_file() and run_of(directory) not in (None, directory)


def holds_student(directory: Path) -> bool:
    """Whether a directory holds a student that can be loaded."""
    return (directory / DESCRIPTION).is_file() or is_checkpoint(directory)


def student_name(directory: Path) -> str | None:
    """Which student of its run a directory holds: last, best, ema, or the step of a checkpoint; None without a run."""
    run = run_of(directory)
    if run is None:
        return None
    name = directory.resolve().name
    step = CHECKPOINT.fullmatch(name)
    return str(int(step[1])) if step else "last" if run.resolve() == directory.resolve() else name


def student_directory(target: Path, checkpoint: str | int | None, *, option: str = "--checkpoint") -> Path:
    """The directory of a student of the run `target`: last, best, ema, or the step of a checkpoint; None is `target`.

    Raises: RunDirectoryError if `target` is not a run, or has no such student.
    """
    if checkpoint is None:
        return target
    name = plain_name(checkpoint)
    if student_name(target) == name and holds_student(target):
        return target
    if not is_run(target):
        raise RunDirectoryError(f"{option} {name} needs a run directory, and '{target}' is not one; leave it out")
    students = _students(target)
    if name not in students:
        available = ", ".join(students) or "none yet"
        raise RunDirectoryError(f"run '{target}' has no student '{name}'; {option} can be: {available}")
    return students[name]


def student_names(run: Path) -> tuple[str, ...]:
    """The names of the students of a run, as for `--checkpoint`; none for a directory that is not a run."""
    return tuple(_students(run)) if is_run(run) else ()


def _students(run: Path) -> dict[str, Path]:
    """The directories of the students of a run, by their names."""
    saved = {"last": run, "best": run / "best", "ema": run / "ema"}
    found = {name: path for name, path in saved.items() if (path / DESCRIPTION).is_file()}
    steps = sorted(path.parent for path in run.glob(f"checkpoints/step-*/{CHECKPOINT_WEIGHTS}"))
    return found | {str(student_name(path)): path for path in steps if CHECKPOINT.fullmatch(path.name)}


def plain_name(checkpoint: str | int) -> str:
    """The name of a checkpoint without the zeros of its directory: "40" for "step-00000040"."""
    text = str(checkpoint)
    step = re.fullmatch(r"(?:step-)?(\d+)", text)
    return str(int(step[1])) if step else text
