# ruff: noqa: NPY002 -- timm and torchvision draw from the global generators; this is where they are seeded
"""Randomness as a pure function: every random decision about the data has a seed made from what it is about."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np


def seed_of(*parts: str | int) -> int:
    """A seed of 128 bits for what `parts` name, the same on every machine and in every process.

    A part must not contain the character NUL, which no file name can.
    """
    # Names of files that are not valid text in their encoding come from Python with surrogates.
    text = "\0".join(map(str, parts)).encode(errors="surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=16).digest(), "little")


def generator(*parts: str | int) -> np.random.RandomState:
    """A generator for what `parts` name. RandomState, because its numbers are the same in every version of NumPy."""
    return np.random.RandomState(np.frombuffer(seed_of(*parts).to_bytes(16, "little"), dtype="<u4"))


@contextmanager
def isolated() -> Iterator[None]:
    """Give the global generators of Python, NumPy and torch back as they were.

    torch's is its CPU generator alone: nothing here runs elsewhere, and seeding all of them takes 200 times as long.
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
    """Seed the global generators of Python, NumPy and torch's CPU for what `parts` name. Only inside `isolated`.

    NumPy and torch get different bits: both are Mersenne twisters of 32 bits, and equal ones would draw the same.
    """
    import torch

    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed & 0xFFFF_FFFF)
    torch.default_generator.manual_seed(seed >> 96)
