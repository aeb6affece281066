"""Device and precision of a run."""

from __future__ import annotations

import torch

from distillkit.errors import RecipeError

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""torch's names for instructions that multiply bf16 matrices: two of x86 and Arm's."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device for `training.device`; auto prefers CUDA, then MPS, then the CPU.

    With several processes on a machine, each uses the GPU of its local rank.

    Raises: RecipeError if this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank) if local_rank else torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(f"training.device is '{name}'; use auto, cpu, cuda, cuda:1 or mps") from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == torch.device("cuda") and local_rank:
        device = torch.device("cuda", local_rank)
    if not present.get(device.type, False):
        raise RecipeError(f"training.device is '{name}', but this machine has no such device; use auto or cpu")
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The autocast dtype; auto is bf16 on a GPU that supports it, fp16 on other GPUs, and fp32 elsewhere."""
    if name != "auto":
        return DTYPES[name]
    if device.type != "cuda":
        return torch.float32
    # bf16 has the range of float32, so that gradients do not underflow as in fp16.
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16; a CPU without them computes bf16 slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # added after torch 2.9
        return False
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in BF16_INSTRUCTIONS)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done its work; on the CPU nothing is queued."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
