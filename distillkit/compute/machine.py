"""Description of this machine: processor, clocks, load, GPUs, versions. Unknown values are None."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from distillkit.compute.busy_machine import load_average
from distillkit.compute.cpus import physical_cores, usable_cpus
from distillkit.version import __version__

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


class GpuCard(BaseModel):
    """One GPU at one moment, as nvidia-smi reports it; unreported values are None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    driver: str | None = None
    memory_mib: float | None = None
    sm_mhz: float | None = None
    max_sm_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttle_reasons: str | None = None
    persistence: str | None = None


class MachineCard(BaseModel):
    """The machine, without host name or paths. `load_average` is of the last minute before measuring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    cpus: int
    cores: int
    memory_bytes: int | None
    governor: str | None
    boost: bool | None
    load_average: float | None
    system: str
    software: dict[str, str]
    gpus: tuple[GpuCard, ...]


def describe_machine(packages: Iterable[str]) -> MachineCard:
    """Describe this machine as it is now, with the versions of `packages`; call it before measuring."""
    return MachineCard(
        processor=processor(),
        cpus=usable_cpus(),
        cores=physical_cores(),
        memory_bytes=psutil.virtual_memory().total,
        governor=_text(FREQUENCY / "cpu0/cpufreq/scaling_governor"),
        boost=_boost(),
        load_average=load_average(),
        system=f"{platform.system()} {platform.machine()}",
        software=versions_of(packages),
        gpus=gpus(),
    )


def machine_line(machine: MachineCard) -> str:
    """The machine in one line."""
    parts = [f"{machine.processor}, {machine.cpus} CPUs on {machine.cores} cores"]
    if machine.governor:
        parts.append(f"governor {machine.governor}")
    if machine.load_average is not None:
        parts.append(f"load average {machine.load_average:.2f}")
    parts += [f"{gpu.name}, driver {gpu.driver}" for gpu in machine.gpus]
    return "; ".join([*parts, machine.system])


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of distillkit, Python, and those of `packages` that are installed under this name."""
    found = {"distillkit": __version__, "python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not installed, or under another name, such as onnxruntime-gpu
            continue
    return found


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, or its architecture; on Jetson, the board's name from the device tree."""
    names = {"model name", "Model", "Hardware"}
    for line in (_text(cpuinfo) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    board = _text(Path("/proc/device-tree/model"))
    return (board or "").strip("\0") or platform.processor() or platform.machine()


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
