"""Delete a folder or whatever is in its place."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from distillkit.storage.links import is_link


def delete(path: Path) -> None:
    """Delete a folder with its content, or a file; of a link, the link alone. What cannot be deleted stays.

    `shutil.rmtree` would open a pipe in place of a folder, and wait.
    """
    if is_link(path) or not path.is_dir():
        with suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
