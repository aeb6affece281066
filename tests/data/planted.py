"""Files that a third party may plant in a folder of pictures: pipes, sockets, devices, and metadata of any size."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image


def a_socket(path: Path) -> None:
    """A socket, under a short relative name: the name of a socket is limited to 108 bytes."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


IRREGULAR: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a socket": a_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}
"""Makers of everything that is not a regular file, and what a message calls it."""


def encoded(form: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 20, 30)).save(file, form, **options)
    return file.getvalue()


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG file with another chunk before its pixels."""
    content = encoded("PNG")
    made = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content[:33] + made + content[33:]


def exif(*entries: tuple[int, int, int, int], next_: int = 0) -> bytes:
    """EXIF data of entries: tag, type, count, and value or offset."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + struct.pack("<I", next_)


def bomb() -> bytes:
    """A few bytes that unpack to 200 MB."""
    packing = zlib.compressobj(9)
    return b"".join(packing.compress(bytes(2**20)) for _ in range(200)) + packing.flush()


EXIF = {
    "a loop": exif((274, 3, 1, 6), (0x8769, 4, 1, 8), next_=8),
    "four billion values": exif((274, 3, 2**32 - 1, 8)),
    "text for a number": exif((274, 2, 4, 0x41414141)),
    "a negative number": exif((274, 8, 1, 0xFFFF)),
    "thousands of long entries": exif(*((tag, 4, 2**31, 8) for tag in range(4_000))),
    "cut off": b"II*\0\x08\0\0\0\xff\xff",
}


def metadata() -> dict[str, tuple[str, bytes, bool]]:
    """Images with planted metadata: name, content, and whether the pixels can still be read."""
    found = {
        "ICC bomb": ("icc.png", with_chunk(b"iCCP", b"x\0\0" + bomb()), False),
        "text bomb": ("ztxt.png", with_chunk(b"zTXt", b"x\0\0" + bomb()), False),
        "international text bomb": ("itxt.png", with_chunk(b"iTXt", b"x\0\1\0\0\0" + bomb()), False),
        "ICC of no known kind": ("icc.jpg", encoded("JPEG", icc_profile=b"\xff" * 300_000), True),
        "XMP that starts again and again": (
            "xmp.png",
            with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x tiff:Orientation=" * 50_000),
            True,
        ),
    }
    for name, data in EXIF.items():
        found[f"EXIF, {name}, in PNG"] = ("exif.png", with_chunk(b"eXIf", data), True)
        found[f"EXIF, {name}, in JPEG"] = ("exif.jpg", encoded("JPEG", exif=b"Exif\0\0" + data), True)
        found[f"EXIF, {name}, in WebP"] = ("exif.webp", encoded("WEBP", exif=data), True)
    return found
