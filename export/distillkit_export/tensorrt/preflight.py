"""Whether an engine can be built and run here, found out so that nothing ends this process.

TensorRT's objects crash the interpreter of a machine without a GPU, and importing it may fail in many ways. So it is
imported in another interpreter first, which then looks for a device, and only then at the version.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from distillkit.errors import UnavailableError
from distillkit_export.isolated_process import ChildError, last_line, result_of
from distillkit_export.tensorrt.cuda import Cuda, CudaError

MAJORS = (10, 11)
INSTALL = 'pip install "distillkit[trt]"'
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Platform:
    """What an engine is bound to. `cuda` is the newest CUDA that the driver serves."""

    gpu: str
    compute_capability: str
    tensorrt: str
    cuda: str

    def __str__(self) -> str:
        return f"tensorrt {self.tensorrt}, {self.gpu}, compute capability {self.compute_capability}"


@dataclass(frozen=True)
class Missing:
    """Why there can be no engine here, and what to do about it."""

    reason: str
    remedy: str


def find_platform() -> Platform | Missing:
    """The GPU and the TensorRT of this machine, or what is missing. Never raises and never ends the process."""
    if find_spec("tensorrt") is None:
        return Missing("TensorRT is not installed", INSTALL)
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return Missing("cuda-bindings is not installed", INSTALL)
    if "tensorrt" in sys.modules:  # it was imported after all this went well
        return probe()
    try:
        answer: dict[str, Any] = result_of("distillkit_export.tensorrt.preflight", timeout_s=TIMEOUT_S)
    except ChildError as death:
        return Missing(f"importing TensorRT {death}", f"install it again: {INSTALL}")
    return Missing(**answer["missing"]) if "missing" in answer else Platform(**answer["platform"])


def require_platform() -> Platform:
    """The same, where an engine is wanted.

    Raises: UnavailableError with the reason and the remedy.
    """
    found = find_platform()
    if isinstance(found, Missing):
        raise UnavailableError(f"{found.reason}; {found.remedy}")
    return found


def probe() -> Platform | Missing:
    """Import TensorRT, count the devices, look at the version: in this order, and in this process."""
    try:
        import tensorrt
    except Exception as error:  # noqa: BLE001 - the bindings raise what their libraries make of it
        return Missing(f"TensorRT cannot be imported: {last_line(str(error))}", f"install it again: {INSTALL}")
    try:
        cuda = Cuda()
        if cuda.devices() == 0:
            return Missing("there is no GPU that CUDA can use", "run this on a machine with an NVIDIA GPU")
        gpu, driver = cuda.gpu(), cuda.driver()
    except ImportError as error:
        return Missing(f"cuda-bindings cannot be imported: {last_line(str(error))}", f"install it again: {INSTALL}")
    except CudaError as error:
        return Missing(f"there is no GPU that CUDA can use: {error}", "run this on a machine with an NVIDIA GPU")
    if int(tensorrt.__version__.partition(".")[0]) not in MAJORS:
        versions = " or ".join(map(str, MAJORS))
        return Missing(f"TensorRT {tensorrt.__version__} is installed, and {versions} is needed", INSTALL)
    return Platform(gpu.name, ".".join(map(str, gpu.capability)), tensorrt.__version__, driver)


def answer() -> dict[str, Any]:
    """What `find_platform` asks of the other interpreter."""
    found = probe()
    return {"missing" if isinstance(found, Missing) else "platform": asdict(found)}


if __name__ == "__main__":
    from distillkit_export.isolated_process import serve

    serve(lambda _request, _say: answer())
