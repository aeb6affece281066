"""Where distillkit keeps what belongs to this user on this machine, and to no run and no bundle."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_data() -> Path:
    """What must not get lost."""
    return _place("XDG_DATA_HOME", ".local/share", "Application Support", "data")


def user_cache() -> Path:
    """What can be made again."""
    return _place("XDG_CACHE_HOME", ".cache", "Caches", "cache")


def private(folder: Path) -> Path:
    """Make `folder`, for this user alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _place(variable: str, linux: str, mac: str, windows: str) -> Path:
    if os.environ.get(variable):
        return Path(os.environ[variable], "distillkit")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"), "distillkit", windows)
    if sys.platform == "darwin":
        return Path.home() / "Library" / mac / "distillkit"
    return Path.home() / linux / "distillkit"
