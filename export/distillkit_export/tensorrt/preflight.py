"""Check in a subprocess whether engines can be built and run on this machine.

TensorRT's objects crash the interpreter on a machine without a GPU, and importing it can fail in many ways. So a
subprocess imports it first, then counts the devices, and only then checks the version.
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
    """The GPU and TensorRT that an engine is specific to. `cuda` is the newest CUDA that the driver supports."""

    gpu: str
    compute_capability: str
    tensorrt: str
    cuda: str

    def __str__(self) -> str:
        return f"tensorrt {self.tensorrt}, {self.gpu}, compute capability {self.compute_capability}"


@dataclass(frozen=True)
class Missing:
    """Why engines cannot be built or run here, and the remedy."""

    reason: str
    remedy: str


def find_platform() -> Platform | Missing:
    """The GPU and TensorRT of this machine, or what is missing. Never raises or crashes."""
    # Without importing TensorRT, so without a subprocess.
    if find_spec("tensorrt") is None:
        return Missing("TensorRT is not installed", INSTALL)
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return Missing("cuda-bindings is not installed", INSTALL)
    if "tensorrt" in sys.modules:  # already imported, which happens only after a successful check
        return probe()
    try:
        found: dict[str, Any] = result_of("distillkit_export.tensorrt.preflight", timeout_s=TIMEOUT_S)
    except ChildError as error:
        return Missing(f"importing TensorRT {error}", f"install it again: {INSTALL}")
    return Missing(**found["missing"]) if "missing" in found else Platform(**found["platform"])


def require_platform() -> Platform:
    """As `find_platform`.

    Raises: UnavailableError with reason and remedy if something is missing.
    """
    found = find_platform()
    if isinstance(found, Missing):
        raise UnavailableError(f"{found.reason}; {found.remedy}")
    return found


def probe() -> Platform | Missing:
    """Import TensorRT, count the devices, check the version: in this order, and in this process."""
    try:
        import tensorrt
    except Exception as error:  # noqa: BLE001 - the bindings raise anything if their libraries fail
        return Missing(f"TensorRT cannot be imported: {last_line(str(error))}", f"install it again: {INSTALL}")
    try:
        cuda = Cuda()
        if cuda.devices() == 0:
            return Missing("CUDA finds no usable GPU", "run this on a machine with an NVIDIA GPU")
        gpu, driver = cuda.gpu(), cuda.driver()
    except ImportError as error:
        return Missing(f"cuda-bindings cannot be imported: {last_line(str(error))}", f"install it again: {INSTALL}")
    except CudaError as error:
        return Missing(f"CUDA finds no usable GPU: {error}", "run this on a machine with an NVIDIA GPU")
    if int(tensorrt.__version__.partition(".")[0]) not in MAJORS:
        versions = " or ".join(map(str, MAJORS))
        return Missing(f"TensorRT {tensorrt.__version__} is installed, but {versions} is needed", INSTALL)
    return Platform(gpu.name, ".".join(map(str, gpu.capability)), tensorrt.__version__, driver)


def report() -> dict[str, Any]:
    """What the subprocess sends to `find_platform`."""
    found = probe()
    return {"missing" if isinstance(found, Missing) else "platform": asdict(found)}


if __name__ == "__main__":
    from distillkit_export.isolated_process import serve

    serve(lambda _request, _send: report())
