"""What glibc does with freed memory of this process: keep it for the next step, or return it to the system."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping

# M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's <malloc.h>, with values from the best down: earlier versions do not
# accept a larger threshold for mmap than 32 MiB, and set nothing then.
_TRIM, _MMAP = -1, -3
_KEEP = {_TRIM: (2**31 - 1,), _MMAP: (2**30, 2**25)}
# Where glibc's own thresholds, which follow the sizes that are freed, end up in a training step.
_RETURN = {_TRIM: (2**26,), _MMAP: (2**25,)}


def keep_freed_memory() -> None:
    """Stop glibc from returning freed memory to the system, for the whole process. No effect without glibc.

    A training step on the CPU frees its tensors, and the next one allocates the same amount. If the memory is returned
    in between, the system zeroes and maps it again page by page: 50,000 page faults a step for a DeiT-Ti with 16 images
    of 224 pixels, and a tenth of the time.
    """
    _set_thresholds(_KEEP)


def return_freed_memory() -> None:
    """Let glibc return freed memory as it does in a process that never called `keep_freed_memory`."""
    _set_thresholds(_RETURN)


def _set_thresholds(values: Mapping[int, tuple[int, ...]]) -> None:
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for parameter, accepted in values.items():
        any(library.mallopt(parameter, value) for value in accepted)  # up to the first that it accepts
