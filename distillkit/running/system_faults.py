"""Errors that the system causes: the run directory is gone, the disk is full, a loader process was killed."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path

from distillkit.errors import DistillkitError, TrainingError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# torch raises it wherever the main thread happens to be when the process ends.
_LOADER = re.compile(r"DataLoader worker \(pid(\(s\))? [\d, ]+\) (is killed by signal|exited)")


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk is full, or a quota or a limit of the system is reached."""
    if getattr(error, "errno", None) in NO_ROOM:
        return True
    # safetensors names the system's error in its message alone.
    return any(f"os error {number}" in str(error) for number in NO_ROOM)


def system_fault(error: BaseException, directory: Path) -> TrainingError | None:
    """The error to report for one that the system caused, through any plugin; None where it is another one.

    `directory` is that of the run.
    """
    if isinstance(error, TrainingError):
        return None
    again = f"continue with --resume {directory}"
    for cause in _causes(error):
        # A process that is killed while it hands over a batch leaves a broken pipe.
        if _LOADER.search(str(cause)) or isinstance(cause, EOFError | ConnectionResetError):
            return TrainingError(
                "a loader process was killed, as when memory runs out; the last checkpoint is as it was; lower "
                f"data.workers or free memory, then {again}"
            )
        if isinstance(cause, DistillkitError):
            continue
        if is_disk_full(cause):
            return TrainingError(f"no room left for {_file(cause, directory)}; make room, then {again}")
        if isinstance(cause, OSError) and directory in Path(str(cause.filename)).parents:
            return TrainingError(
                f"the run directory cannot be written any more: {_file(cause, directory)} ({cause.strerror}); "
                f"restore it, then {again}"
            )
    return None


def _file(error: BaseException, directory: Path) -> Path:
    return Path(getattr(error, "filename", None) or directory)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, its cause, the cause of that, and so on."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
