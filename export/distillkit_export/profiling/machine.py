"""Description of this machine: processor, clocks, load, GPUs. Unknown values are None."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from distillkit.compute.cpus import physical_cores, usable_cpus
from distillkit_export.bundle.manifest import versions
from distillkit_export.profiling.schema import GpuCard, MachineCard

RUNTIME_PACKAGES = ("onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-cu13", "cuda-bindings")
GPU_FIELDS = {
    "name": "name",
    "driver": "driver_version",
    "memory_mib": "memory.total",
    "sm_mhz": "clocks.sm",
    "max_sm_mhz": "clocks.max.sm",
    "power_w": "power.draw",
    "temperature_c": "temperature.gpu",
    "throttle_reasons": "clocks_throttle_reasons.active",
    "persistence": "persistence_mode",
}
UNKNOWN = {"", "[N/A]", "N/A", "[Not Supported]", "[Unknown Error]"}
NVIDIA_SMI_S = 10
FREQUENCY = Path("/sys/devices/system/cpu")

Command = Callable[[list[str]], str | None]


def machine() -> MachineCard:
    """Describe this machine as it is now; call it before measuring. Contains neither a host name nor a path."""
    return MachineCard(
        processor=processor(),
        cpus=usable_cpus(),
        cores=physical_cores(),
        memory_bytes=psutil.virtual_memory().total,
        governor=_text(FREQUENCY / "cpu0/cpufreq/scaling_governor"),
        boost=_boost(),
        load_average=load_average(),
        system=f"{platform.system()} {platform.machine()}",
        software=dict(versions()) | _runtime_packages(),
        gpus=gpus(),
    )


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, or its architecture; on Jetson, the board's name from the device tree."""
    names = {"model name", "Model", "Hardware"}
    for line in (_text(cpuinfo) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    board = _text(Path("/proc/device-tree/model"))
    return (board or "").strip("\0") or platform.processor() or platform.machine()


def load_average() -> float | None:
    """Load average of the last minute; None where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def gpus(command: Command | None = None) -> tuple[GpuCard, ...]:
    """Every NVIDIA GPU as nvidia-smi reports it now; empty if nvidia-smi is missing or fails."""
    query = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS.values())}", "--format=csv,noheader,nounits"]
    csv = (command or _output)(query)
    cards = []
    for line in (csv or "").splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == len(GPU_FIELDS):
            fields = dict(zip(GPU_FIELDS, values, strict=True))
            cards.append(GpuCard.model_validate({key: value for key, value in fields.items() if value not in UNKNOWN}))
    return tuple(cards)


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


def _runtime_packages() -> dict[str, str]:
    found = {}
    for name in RUNTIME_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _boost() -> bool | None:
    boost, no_turbo = _text(FREQUENCY / "cpufreq/boost"), _text(FREQUENCY / "intel_pstate/no_turbo")
    if boost is not None:
        return boost == "1"
    return None if no_turbo is None else no_turbo == "0"


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
