"""The cache of torch.compile, in a folder of this user alone: it contains code that later processes execute."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from distillkit.storage.user_dirs import make_private, user_cache

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
DEFAULT_PREFIX = "torchinductor_"


def use_private_cache() -> None:
    """Compile into the user's own cache, unless the user has set another folder; call it before torch.compile.

    torch's own choice is a folder of a known name in the folder for temporary files, which another user of the machine
    can make first and fill. It stays where no folder of the user can be made.
    """
    chosen = os.environ.get(VARIABLE)  # torch sets it as well, to its own choice
    if chosen is None or _is_default(Path(chosen)):
        with suppress(OSError):
            os.environ[VARIABLE] = str(make_private(user_cache() / "torch-compile"))


def _is_default(folder: Path) -> bool:
    return folder.name.startswith(DEFAULT_PREFIX) and folder.parent == Path(tempfile.gettempdir()).absolute()
