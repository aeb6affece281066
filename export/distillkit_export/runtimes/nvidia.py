"""Whether there is an NVIDIA GPU, asked of the driver alone: nothing here loads a runtime or opens a context."""

from __future__ import annotations

import ctypes
import sys

CUDA_SUCCESS = 0
LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def cuda_devices(library: str = LIBRARY) -> int:
    """How many CUDA devices the driver shows; 0 where there is no driver, or it fails. Never raises."""
    try:
        driver = ctypes.CDLL(library)
        count = ctypes.c_int(0)
        if driver.cuInit(0) != CUDA_SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != CUDA_SUCCESS:
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value
