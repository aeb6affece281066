"""System faults: full disk, deleted run directory, killed data loader worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distillkit.data.image_faults import WORKER_DIED
from distillkit.errors import DistillkitError, TrainingError
from distillkit.messages.text import command
from distillkit.storage.places import DISK_FULL_ERRNOS


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk is full, or a disk quota or file size limit is reached."""
    if getattr(error, "errno", None) in DISK_FULL_ERRNOS:
        return True
    # safetensors reports the system's error only in its message.
    return any(f"os error {number}" in str(error) for number in DISK_FULL_ERRNOS)


def system_fault(error: BaseException, directory: Path) -> TrainingError | None:
    """The TrainingError for a system fault in `error` or its causes, also through a plugin; None for other errors.

    `directory` is the run directory.
    """
    if isinstance(error, TrainingError):
        return None
    again = f"continue with {command('--resume', directory)}"
    for cause in causes(error):
        # A worker that is killed while it sends a batch leaves a broken pipe.
        if WORKER_DIED.search(str(cause)) or isinstance(cause, EOFError | ConnectionResetError):
            saved = any(directory.glob("checkpoints/step-*"))
            kept = "the last checkpoint is intact" if saved else "no checkpoint is saved yet"
            return TrainingError(
                f"a data loader worker was killed, probably out of memory; {kept}; free memory and {again}, or use "
                f"fewer workers: {command('--resume', directory)} --set data.workers=N"
            )
        if isinstance(cause, DistillkitError):
            continue
        if is_disk_full(cause):
            return TrainingError(f"no disk space left for {_file(cause, directory)}; free some space, then {again}")
        if isinstance(cause, OSError) and directory in Path(str(cause.filename)).parents:
            return TrainingError(
                f"cannot write to the run directory any more: {_file(cause, directory)} ({cause.strerror}); "
                f"restore it, then {again}"
            )
    return None


def _file(error: BaseException, directory: Path) -> Path:
    return Path(getattr(error, "filename", None) or directory)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and the chain of its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
