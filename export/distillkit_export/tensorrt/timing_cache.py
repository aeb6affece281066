"""TensorRT's timing cache: kernel timings on this machine, which make the next build faster.

One file per GPU and TensorRT version in the user's cache directory; never from a bundle.
"""

from __future__ import annotations

from pathlib import Path

from distillkit.storage.atomic import write_bytes
from distillkit_export.tensorrt.engine_card import machine_name
from distillkit_export.tensorrt.preflight import Platform
from distillkit_export.user_dirs import make_private, user_cache


def timing_cache(here: Platform) -> Path:
    """Path of this machine's timing cache."""
    return user_cache() / "tensorrt" / f"{machine_name(here)}.cache"


def read_cache(file: Path) -> bytes:
    """The cache's content, empty if there is no file yet."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def write_cache(file: Path, content: bytes) -> None:
    """Replace the cache atomically, so that concurrent builds do not corrupt it."""
    make_private(file.parent)
    write_bytes(file, content)
