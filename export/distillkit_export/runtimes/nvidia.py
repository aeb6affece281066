"""Count NVIDIA GPUs through the driver only: loads no runtime and opens no CUDA context."""

from __future__ import annotations

import ctypes
import sys

CUDA_SUCCESS = 0
LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def cuda_devices(library: str = LIBRARY) -> int:
    """Number of CUDA devices that the driver reports; 0 if there is no driver or it fails. Never raises."""
    try:
        driver = ctypes.CDLL(library)
        count = ctypes.c_int(0)
        if driver.cuInit(0) != CUDA_SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != CUDA_SUCCESS:
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value
