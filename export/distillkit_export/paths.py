"""Paths that a bundle names: always relative, always below its folder, on every system."""

from __future__ import annotations

from pathlib import PurePosixPath

LONGEST = 1_000
FORBIDDEN = frozenset('\\:*?"<>|')
"""What a path has on one system and means something else on another."""


def inside(path: str) -> bool:
    r"""Whether a path is relative, in its shortest form, and cannot leave the folder that it is relative to.

    >>> [inside(path) for path in ("model.onnx", "trt/a.plan", "../a", "/a", "a/../b", "C:a", r"a\b", "", ".")]
    [True, True, False, False, False, False, False, False, False]
    """
    if not 0 < len(path) <= LONGEST or FORBIDDEN & set(path) or not path.isprintable():
        return False
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and path == pure.as_posix() and ".." not in pure.parts
