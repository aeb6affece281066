"""Availability and settings of the PyTorch runtimes, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from distillkit.contracts.runtime import Availability, Servable, Setting
from distillkit.errors import UnavailableError
from distillkit_export.runtimes.nvidia import cuda_devices
from distillkit_export.runtimes.processors import thread_counts

FORMAT = "torch"


def availability() -> Availability:
    """Whether torch and timm are installed, and for which device. Imports neither, never raises."""
    for package in ("torch", "timm"):
        if find_spec(package) is None:
            remedy = 'pip install "distillkit[train]"'
            return Availability(works=False, detail=f"{package} is not installed", remedy=remedy)
    try:
        named = f"torch {version('torch')}"
    except PackageNotFoundError:
        named = "torch"
    return Availability(works=True, detail=f"{named}, {'CUDA' if has_cuda() else 'CPU'}")


def has_cuda() -> bool:
    """Whether there is a GPU and a CUDA build of torch, without importing torch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None or not cuda_devices():
        return False
    return any((Path(spec.origin).parent / "lib").glob("*torch_cuda*"))


def settings() -> Sequence[Setting]:
    """The default of torch first (the GPU if there is one), then the CPU with several thread counts."""
    cpu: Setting = {"device": "cpu"} if has_cuda() else {}
    candidates: list[Setting] = [{}, cpu, *({**cpu, "threads": count} for count in thread_counts())]
    return candidates if has_cuda() else candidates[1:]


def require_torch(servable: Servable, runtime: str, found: Availability) -> None:
    """Raise UnavailableError for a servable that is not a model in memory, and on a machine without torch."""
    if servable.format != FORMAT:
        raise UnavailableError(f"{runtime} runs models in memory, not files such as {servable.format}")
    if not found.works:
        raise UnavailableError(f"{runtime} does not work here: {found.detail}; {found.remedy}")
