"""What the runtimes on PyTorch can say without importing it: whether it is here, and for which device."""

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
    """Whether torch and timm are here, and for which device. Imports neither, and never raises."""
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
    """Whether there is a GPU and a torch that was built for it; asked without importing torch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None or not cuda_devices():
        return False
    return any((Path(spec.origin).parent / "lib").glob("*torch_cuda*"))


def settings() -> Sequence[Setting]:
    """What torch chooses by itself, which is the GPU where there is one; then the CPU by numbers of threads."""
    cpu: Setting = {"device": "cpu"} if has_cuda() else {}
    tried: list[Setting] = [{}, cpu, *({**cpu, "threads": count} for count in thread_counts())]
    return tried if has_cuda() else tried[1:]


def require_torch(servable: Servable, runtime: str, found: Availability) -> None:
    """Refuse what is not a model in memory, and a machine without torch."""
    if servable.format != FORMAT:
        raise UnavailableError(f"{runtime} runs models in memory, not files such as {servable.format}")
    if not found.works:
        raise UnavailableError(f"{runtime} does not work here: {found.detail}; {found.remedy}")
