"""Which engines this machine has built. Loading an engine is running it, so no other one is loaded.

For every engine of our own a file named by its digest lies in the user's data directory, where nobody else can write.
An engine that came with a bundle, or was changed since, has none.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from pathlib import Path

from distillkit.errors import UnavailableError
from distillkit_export.user_dirs import private, user_data

VARIABLE = "DISTILLKIT_TRUST_ENGINE"
"""The way round, for engines that were built by somebody the user knows: one or more digests, separated by commas."""


def store() -> Path:
    """The folder with a file for each of our own engines."""
    return user_data() / "engines"


def trust(plan: bytes, name: str) -> str:
    """Remember an engine that was just built here; returns its digest."""
    digest = hashlib.sha256(plan).hexdigest()
    private(store())
    note = {"name": name, "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    with os.fdopen(os.open(_note(digest), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(note, file)
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
            f"distillkit export BUNDLE --trt, or, if you know who built it, set {VARIABLE}={digest}"
        )
    for path in (store(), _note(digest)):
        _require_private(path)


def _note(digest: str) -> Path:
    return store() / f"{digest}.json"


def _require_private(path: Path) -> None:
    """Refuse what somebody else could have written, where the system can say so."""
    facts = path.stat()
    if os.name == "posix" and (facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o077):
        raise UnavailableError(
            f"{path} is open to others, so it does not prove who built an engine; remove it and build the engine again"
        )
