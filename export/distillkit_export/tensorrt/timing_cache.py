"""TensorRT's timing cache: kernel timings on this machine, which make the next build faster.

One file per GPU and TensorRT version in the user's cache directory; never from a bundle.
"""

from __future__ import annotations

from pathlib import Path

from distillkit.storage.atomic import write_bytes
from distillkit.storage.untrusted import read_plain_bytes
from distillkit.storage.user_dirs import make_private, user_cache
from distillkit_export.tensorrt.engine_card import machine_name
from distillkit_export.tensorrt.preflight import Platform

LARGEST = 2**30
"""Bytes; the timings of a ViT take less than one megabyte."""


def timing_cache(here: Platform) -> Path:
    """Path of this machine's timing cache."""
    return user_cache() / "tensorrt" / f"{machine_name(here)}.cache"


def read_cache(file: Path) -> bytes:
    """The cache's content; empty, so that a new one is started, if there is none yet or it is not a cache's size."""
    try:
        return read_plain_bytes(file, largest=LARGEST)
    except (FileNotFoundError, ValueError):
        return b""


def write_cache(file: Path, content: bytes) -> None:
    """Replace the cache atomically, so that concurrent builds do not corrupt it."""
    make_private(file.parent)
    write_bytes(file, content)
