"""The machine of a profile, and the energy that its GPU uses."""

from __future__ import annotations

from collections.abc import Callable

from distillkit.compute.machine import MachineCard, describe_machine
from distillkit_export.bundle.manifest import SOFTWARE

RUNTIME_PACKAGES = ("onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-cu13", "cuda-bindings")


def machine() -> MachineCard:
    """Describe this machine as it is now; call it before measuring. Contains neither a host name nor a path."""
    return describe_machine((*SOFTWARE, *RUNTIME_PACKAGES))


class EnergyMeter:
    """Energy counter of the first GPU, if pynvml is installed and the GPU has one."""

    def __init__(self) -> None:
        self._read: Callable[[], int] | None = None
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except Exception:  # noqa: BLE001 - no package, no driver, no GPU or no counter: no measurement
            return
        self._read = lambda: int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))

    def joules(self) -> float | None:
        """Energy in joules since the driver was loaded; None if unknown."""
        return None if self._read is None else self._read() / 1e3
