"""The model's own randomness (stochastic depth, dropout) as a pure function of where the run stands."""

from __future__ import annotations

from hashlib import blake2b

import torch


def seed_model_noise(seed: int, *, step: int, micro_batch: int, rank: int, device: torch.device) -> None:
    """Seed torch just before a student's forward, so that nothing has to be saved to resume exactly.

    The CPU's default generator is always seeded and the accelerator's too. Results are equal between runs on
    one kind of device; a GPU draws other numbers than a CPU.
    """
    key = f"{seed}/{step}/{micro_batch}/{rank}".encode()
    value = int.from_bytes(blake2b(key, digest_size=8).digest(), "little") >> 1
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)
