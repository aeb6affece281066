"""Which device and which arithmetic a run uses."""

from __future__ import annotations

import ctypes
import platform

import torch

from distillkit.errors import RecipeError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(asked: str, local_rank: int = 0) -> torch.device:
    """The device that `training.device` means; auto is CUDA, then Apple's, then the CPU.

    Of several processes on a machine each takes the GPU of its number.

    Raises: RecipeError for a device that is not here.
    """
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank) if local_rank else torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise RecipeError(f"training.device is '{asked}'; use auto, cpu, cuda, cuda:1 or mps") from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == torch.device("cuda") and local_rank:
        device = torch.device("cuda", local_rank)
    if not present.get(device.type, False):
        raise RecipeError(f"training.device is '{asked}' and there is no such device here; use auto or cpu")
    return device


def pick_precision(asked: str, device: torch.device) -> torch.dtype:
    """The autocast dtype; auto is bf16 on a GPU that has it, fp16 on one that has not, and fp32 elsewhere."""
    if asked != "auto":
        return DTYPES[asked]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


# <malloc.h> of glibc: the number of a parameter, and the largest value that it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = (-1, 2**31 - 1), (-3, 2**25)


def keep_freed_memory() -> None:
    """Ask glibc not to give freed memory back to the system; elsewhere nothing happens.

    A step on the CPU frees its tensors and the next one takes as much again. Given back in between, that memory comes
    anew page by page, zeroed: 900 page faults a step for a ViT of 0.4 million parameters and a batch of 8, and some
    percent of its time. Holds for the whole process.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for parameter, value in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        library.mallopt(parameter, value)
