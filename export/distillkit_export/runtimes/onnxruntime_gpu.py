"""The runtimes `onnxruntime-cuda` and `onnxruntime-tensorrt`: ONNX Runtime on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from distillkit.contracts.runtime import Availability, InferenceSession, Servable, Setting
from distillkit.errors import UnavailableError
from distillkit_export.runtimes.nvidia import cuda_devices
from distillkit_export.runtimes.onnx_runtime import (
    CUDA,
    TENSORRT,
    OnnxRuntimeSession,
    Provider,
    availability,
    installed_builds,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REMEDY = 'pip install "distillkit[gpu]"'


class OnnxRuntimeCuda:
    """ONNX files on ONNX Runtime's CUDA kernels.

    Settings: `cuda_graph`, whether a bound batch is launched as one CUDA graph. TF32 is off, so float32 stays
    float32.
    """

    formats: tuple[str, ...] = ("onnx",)
    name: ClassVar[str] = "onnxruntime-cuda"
    provider: ClassVar[str] = CUDA

    def availability(self) -> Availability:
        found = availability(self.provider, REMEDY)
        if found.works and not cuda_devices():
            return Availability(
                works=False,
                detail="the NVIDIA driver reports no GPU",
                remedy="run on a machine with an NVIDIA GPU and its driver",
            )
        return found

    def settings(self) -> Sequence[Setting]:
        return ({"cuda_graph": True}, {"cuda_graph": False})

    def open(self, servable: Servable, setting: Setting) -> InferenceSession:
        if servable.format not in self.formats:
            raise UnavailableError(f"{self.name} loads {', '.join(self.formats)}, not {servable.format}")
        found = self.availability()
        if not found.works:
            raise UnavailableError(f"{self.name} does not work here: {found.detail}; {found.remedy}")
        if len(installed_builds()) > 1:
            raise UnavailableError(f"{self.name} cannot be trusted: {found.detail}; pip uninstall both, then {REMEDY}")
        graph = bool(setting.get("cuda_graph", True))
        return _GpuSession(servable, self.providers(servable, graph=graph), graph=graph)

    def providers(self, servable: Servable, *, graph: bool) -> list[Provider]:  # noqa: ARG002 - CUDA runs the file's types
        return [(CUDA, {"enable_cuda_graph": "1" if graph else "0", "use_tf32": "0"})]


class OnnxRuntimeTensorrt(OnnxRuntimeCuda):
    """ONNX files on TensorRT inside ONNX Runtime, which builds an engine for every new input shape.

    Operators that TensorRT does not support run on CUDA. Settings: `cuda_graph`, as for onnxruntime-cuda.
    """

    name = "onnxruntime-tensorrt"
    provider = TENSORRT

    def providers(self, servable: Servable, *, graph: bool) -> list[Provider]:
        given = {"trt_cuda_graph_enable": "True" if graph else "False"}
        flag = {"fp16": "trt_fp16_enable", "bf16": "trt_bf16_enable", "int8": "trt_int8_enable"}.get(servable.precision)
        if flag:
            given[flag] = "True"
        return [(TENSORRT, given), (CUDA, {"use_tf32": "0"})]


class _GpuSession(OnnxRuntimeSession):
    """A session on a GPU. Calls include the copies between host and device; bound batches do not.

    A CUDA graph needs fixed addresses and a call has none, so calls use a second session without graphs.
    """

    def __init__(self, servable: Servable, providers: Sequence[Provider], *, graph: bool) -> None:
        super().__init__(servable, providers, {}, device="cuda")
        self._facts["cuda_graph"] = graph
        self._servable, self._providers, self._graph = servable, providers, graph

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        return self._without_graph(images) if self._graph else super().__call__(images)

    @cached_property
    def _without_graph(self) -> OnnxRuntimeSession:
        off = {"enable_cuda_graph": "0", "trt_cuda_graph_enable": "False"}
        plain = [(name, {key: off.get(key, value) for key, value in given.items()}) for name, given in self._providers]
        return OnnxRuntimeSession(self._servable, plain, {}, device="cuda")
