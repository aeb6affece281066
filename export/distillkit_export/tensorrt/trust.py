"""Trust in engines: only engines built on this machine are loaded, since loading an engine runs its code.

For every engine built here there is a file named by its SHA-256 in the user's data directory, which only the user can
write. An engine that came with a bundle, or was changed, has none.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from pathlib import Path

from distillkit.errors import UnavailableError
from distillkit.storage.atomic import write_bytes
from distillkit.storage.user_dirs import make_private, user_data

VARIABLE = "DISTILLKIT_TRUST_ENGINE"
"""Environment variable to trust other engines: one or more SHA-256 digests, separated by commas."""


def store() -> Path:
    """The folder with a file for each engine built here."""
    return user_data() / "engines"


def trust(plan: bytes, name: str) -> str:
    """Record an engine that was just built here; returns its SHA-256."""
    digest = hashlib.sha256(plan).hexdigest()
    make_private(store())
    note = {"name": name, "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    # Created with mode 0600, so that it is never accessible to other users.
    write_bytes(_note(digest), json.dumps(note).encode(), mode=0o600)
    return digest


def require_trusted(plan: bytes, name: str) -> None:
    """Refuse an engine that this machine did not build.

    Raises: UnavailableError.
    """
    digest = hashlib.sha256(plan).hexdigest()
    if digest in {text.strip().lower() for text in os.environ.get(VARIABLE, "").split(",")}:
        return
    if not _note(digest).is_file():
        raise UnavailableError(
            f"engine {name} was not built on this machine, and loading an engine runs its code; build your own with "
            f"distillkit export BUNDLE --trt --force, or, if you know who built it, set {VARIABLE}={digest}"
        )
    for path in (store(), _note(digest)):
        _require_private(path)


def _note(digest: str) -> Path:
    return store() / f"{digest}.json"


def _require_private(path: Path) -> None:
    """Refuse a file that other users can access, on POSIX systems."""
    facts = path.stat()
    if os.name == "posix" and (facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o077):
        raise UnavailableError(
            f"{path} is accessible to other users, so it does not prove who built the engine; remove it and build the "
            "engine again"
        )
