"""What TensorRT learnt about the speed of kernels on this machine, kept so that the next build takes less time.

One file for each GPU and version, in the user's cache directory; never from a bundle.
"""

from __future__ import annotations

from pathlib import Path

from distillkit.storage.atomic import write_bytes
from distillkit_export.tensorrt.engine_card import machine_name
from distillkit_export.tensorrt.preflight import Platform
from distillkit_export.user_dirs import private, user_cache


def timing_cache(here: Platform) -> Path:
    """Where the cache of this machine is kept."""
    return user_cache() / "tensorrt" / f"{machine_name(here)}.cache"


def read_cache(file: Path) -> bytes:
    """The cache, or nothing where there is none yet."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def write_cache(file: Path, content: bytes) -> None:
    """Replace the cache as a whole, so that builds side by side spoil nothing."""
    private(file.parent)
    write_bytes(file, content)
