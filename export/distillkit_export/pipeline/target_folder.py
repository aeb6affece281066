"""Checks of TARGET of `distillkit export` before torch is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from distillkit.contracts.student_directory import CHECKPOINT_WEIGHTS, DESCRIPTION, holds_student, is_run, run_of
from distillkit.errors import RunDirectoryError, UserError
from distillkit.messages.text import command
from distillkit.plugin.registry import PluginRegistry, split_name
from distillkit.running.checkpoint_folders import checkpoints
from distillkit.running.directory import RunDirectory


def require_exportable(target: str, plugins: PluginRegistry, weights: str | None = None) -> None:
    """Check that a target is a folder with a student or a checkpoint, or a model by name; only that has `weights`.

    Raises: RunDirectoryError, UserError.
    """
    path = Path(target)
    if path.is_dir():
        if weights is not None:
            raise UserError(
                f"'{target}' already has weights; leave out --weights, or give a model by name such as timm:resnet18"
            )
        if not holds_student(path):
            raise RunDirectoryError(_nothing_to_export(path))
    elif split_name(target)[0] not in {plugin.spec.name for plugin in plugins.listing("teacher")}:
        raise RunDirectoryError(
            f"'{target}' is neither a directory nor a model by name; give a run directory, a directory with "
            f"{DESCRIPTION}, or a name such as timm:resnet18"
        )


def _nothing_to_export(path: Path) -> str:
    """Message for a directory that cannot be exported, with a path nearby that can."""
    if not is_run(path):
        inside = sorted(file.parent for file in path.glob(f"step-*/{CHECKPOINT_WEIGHTS}"))
        if inside and run_of(path) is not None:
            return f"'{path}' is a folder of checkpoints; export the newest with '{inside[-1]}'"
        return f"'{path}' contains no student; give a run directory, a directory with {DESCRIPTION}, or a checkpoint"
    run = RunDirectory(path)
    saved = checkpoints(run.checkpoints)
    if (run.best / DESCRIPTION).is_file():
        remedy = f"export its best student so far with '{run.best}'"
    elif saved:
        remedy = f"export its newest checkpoint with '{saved[-1]}'"
    else:
        remedy = f"continue it with {command('--resume', path)}"
    return f"run '{path}' is not finished; {remedy}"
