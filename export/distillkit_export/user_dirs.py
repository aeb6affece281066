"""Where distillkit keeps what belongs to this user on this machine, and to no run and no bundle."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path, user_data_path


def user_data() -> Path:
    """What must not get lost."""
    return user_data_path("distillkit", appauthor=False)


def user_cache() -> Path:
    """What can be made again."""
    return user_cache_path("distillkit", appauthor=False)


def private(folder: Path) -> Path:
    """Make `folder`, for this user alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
