"""Files and folders inside a run, bundle or bank: a link in their place is refused, as it leads elsewhere."""

from __future__ import annotations

import errno
import os
from pathlib import Path


class LinkError(OSError):
    """A link in place of a file or folder inside a run or bundle."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ELOOP, "it is a link", str(path))

    def sentence(self) -> str:
        """The message, with what to do."""
        return (
            f"{os.fsdecode(self.filename)} is a link, and distillkit writes only inside a run, bundle or bank itself; "
            "replace the link with what it leads to, or delete it"
        )


def is_link(path: Path) -> bool:
    """Whether a path is a symbolic link, or on Windows a junction."""
    is_junction = getattr(os.path, "isjunction", None)  # since Python 3.12
    return path.is_symlink() or (is_junction is not None and bool(is_junction(path)))


def require_own(path: Path) -> Path:
    """`path`, which need not exist, unless it is a link.

    Raises: LinkError.
    """
    if is_link(path):
        raise LinkError(path)
    return path


def own_folder(folder: Path) -> Path:
    """`folder`, made with its parents if it is missing, unless it is a link.

    Raises: LinkError; OSError if it cannot be made.
    """
    require_own(folder).mkdir(parents=True, exist_ok=True)
    return folder
