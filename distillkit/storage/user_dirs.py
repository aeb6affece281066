"""Per-user data and cache folders of distillkit, for files that belong to no run and no bundle."""

from __future__ import annotations

import os.path
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


def expanded(path: str | Path) -> Path:
    """A path whose "~" is replaced by the home directory; that of an unknown user stays, and does not exist.

    >>> expanded("~no-such-user/images").as_posix()
    '~no-such-user/images'
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser fails for an unknown user
