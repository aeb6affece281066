"""Break real PNG files in every way listed in `distillkit.data.image_faults.KINDS`."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from distillkit.data.image_faults import KINDS, Kind

# root reads files without permission because of these two capabilities.
OVERRIDES = "-dac_override,-dac_read_search"
AS_USER = ("setpriv", f"--bounding-set={OVERRIDES}", f"--inh-caps={OVERRIDES}", "--")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def not_an_image(path: Path) -> None:
    path.write_text("<html>404 not found</html>", encoding="utf-8")


def wrong_mode(path: Path) -> None:
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)


def too_large(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


def missing(path: Path) -> None:
    path.unlink()
    path.symlink_to("moved-away.png")


def forbidden(path: Path) -> None:
    path.chmod(0)


def damaged(path: Path) -> None:
    """Flip every bit of the compressed pixels, except for their header."""
    content = bytearray(path.read_bytes())
    start = content.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", content[start - 8 : start - 4])
    for place in range(start + 2, start + length):
        content[place] ^= 0xFF
    path.write_bytes(content)


BREAKERS: dict[Kind, Callable[[Path], None]] = {
    "empty": empty,
    "truncated": truncated,
    "not-an-image": not_an_image,
    "wrong-mode": wrong_mode,
    "too-large": too_large,
    "missing": missing,
    "forbidden": forbidden,
    "damaged": damaged,
}
assert set(BREAKERS) == set(KINDS)


FOR_ALL: tuple[Kind, ...] = tuple(kind for kind in BREAKERS if kind != "forbidden")
"""The kinds that also occur for root."""


def break_some(folder: Path, count: int, kinds: Sequence[Kind] = FOR_ALL, seed: int = 0) -> dict[str, Kind]:
    """Break `count` images below a folder, each kind in turn, and return the kind of each by its key.

    They cannot be repaired, so folders with links are refused.
    """
    root = folder.resolve()
    assert all(path.resolve() == root / path.relative_to(folder) for path in folder.rglob("*")), "there are links"
    assert not folder.is_symlink()
    chosen = random.Random(seed).sample(sorted(folder.rglob("*.png")), count)
    keys = [path.relative_to(folder).as_posix() for path in chosen]
    broken = {key: kinds[place % len(kinds)] for place, key in enumerate(keys)}
    for key, kind in broken.items():
        BREAKERS[kind](folder / key)
    return broken


def as_user(command: Sequence[str], **more) -> subprocess.CompletedProcess[str]:
    """Run Python as a user that file permissions apply to, even if root runs the tests."""
    return subprocess.run([*AS_USER, sys.executable, *command], check=False, capture_output=True, text=True, **more)


def why_not_as_user() -> str | None:
    """Why `as_user` does not work here; None where it does."""
    try:
        done = subprocess.run([*AS_USER, "true"], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return "setpriv is not installed"
    return None if done.returncode == 0 else done.stderr
