"""The machine of a measurement, for the JSON of every benchmark."""

from __future__ import annotations

import os
import platform

from distillkit.compute.machine import processor, versions_of


def machine() -> dict[str, str | int]:
    """Processor, cores, system and versions; no host names and no paths."""
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        **versions_of(("torch", "timm", "numpy")),
    }
