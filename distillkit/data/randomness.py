# ruff: noqa: NPY002 -- timm and torchvision draw from the global generators; this is where they are seeded
"""Seeds: every random decision about the data is seeded with the names of what it concerns."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np


def seed_of(*parts: str | int) -> int:
    """A 128-bit seed for `parts`, the same on every machine and in every process.

    A part must not contain a NUL character, which no file name does.
    """
    # Python decodes file names that are not valid UTF-8 with surrogate escapes.
    text = "\0".join(map(str, parts)).encode(errors="surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=16).digest(), "little")


def sample_name(view: int, repeat: int, key: str) -> tuple[str | int, ...]:
    """The parts, after `data.seed`, of the seed with which an image is augmented."""
    return "sample", view, repeat, key


def generator(*parts: str | int) -> np.random.RandomState:
    """A generator seeded with `parts`. A RandomState, whose numbers are the same in every version of NumPy."""
    # RandomState takes 32-bit words; with a fixed byte order they are the same on every machine.
    return np.random.RandomState(np.frombuffer(seed_of(*parts).to_bytes(16, "little"), dtype="<u4"))


@contextmanager
def isolated() -> Iterator[None]:
    """Restore the global generators of Python, NumPy and torch on exit.

    Of torch only the CPU generator: nothing here runs elsewhere, and seeding all of them takes 200 times as long.
    """
    import torch

    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(cpu)


def reseed(*parts: str | int) -> None:
    """Seed the global generators of Python, NumPy and torch's CPU with `parts`. Only inside `isolated`.

    NumPy and torch get different bits: both are Mersenne twisters of 32 bits, and equal ones would draw the same.
    """
    import torch

    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed & 0xFFFF_FFFF)
    torch.default_generator.manual_seed(seed >> 96)
