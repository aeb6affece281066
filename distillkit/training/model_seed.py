"""Seeds for stochastic depth and dropout, as a function of seed, step, micro-batch and rank."""

from __future__ import annotations

from hashlib import blake2b

import torch


def seed_model_noise(seed: int, *, step: int, micro_batch: int, rank: int, device: torch.device) -> None:
    """Seed torch before a student's forward, so that an exact resume needs no saved random state.

    Seeds the default generator of the CPU and that of `device`. Results are equal between runs on the same kind of
    device; a GPU draws other numbers than a CPU.
    """
    key = f"{seed}/{step}/{micro_batch}/{rank}".encode()
    # Shifted by one bit: a seed must fit a signed 64-bit integer.
    value = int.from_bytes(blake2b(key, digest_size=8).digest(), "little") >> 1
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)
