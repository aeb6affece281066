"""Per-user data and cache folders of distillkit, for files that belong to no run and no bundle."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path, user_data_path


def user_data() -> Path:
    """Folder for data that cannot be recreated."""
    return user_data_path("distillkit", appauthor=False)


def user_cache() -> Path:
    """Folder for cached data that can be recreated."""
    return user_cache_path("distillkit", appauthor=False)


def make_private(folder: Path) -> Path:
    """Create `folder`, accessible only to this user."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
