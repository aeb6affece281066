"""The CUDA runtime calls needed to execute an engine, through NVIDIA's cuda-bindings, with error checks.

Addresses, streams, events and graphs are opaque values of cuda-bindings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distillkit.errors import UnavailableError


class CudaError(UnavailableError):
    """A CUDA call failed."""


@dataclass(frozen=True)
class Gpu:
    """CUDA's first device, so CUDA_VISIBLE_DEVICES chooses it. `capability` is for example (8, 9)."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int


class Cuda:
    """CUDA's runtime. Creating one touches no device.

    Raises: ImportError without cuda-bindings. Every method raises CudaError with CUDA's error message.
    """

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._runtime = runtime

    def devices(self) -> int:
        """Number of devices; safe on a machine without a driver."""
        count: int = self._checked(self._runtime.cudaGetDeviceCount())
        return count

    def gpu(self) -> Gpu:
        facts = self._checked(self._runtime.cudaGetDeviceProperties(0))
        name = facts.name.decode() if isinstance(facts.name, bytes) else str(facts.name)
        return Gpu(name.strip("\0"), (int(facts.major), int(facts.minor)), int(facts.totalGlobalMem))

    def driver(self) -> str:
        """The newest CUDA version that the driver supports, such as "13.0"."""
        number: int = self._checked(self._runtime.cudaDriverGetVersion())
        return f"{number // 1000}.{number % 1000 // 10}"

    def stream(self) -> Any:
        """A stream that does not synchronise with the default one."""
        return self._checked(self._runtime.cudaStreamCreateWithFlags(self._runtime.cudaStreamNonBlocking))

    def handle(self, stream: Any) -> int:
        """A stream's handle as an integer, for TensorRT."""
        return int(stream)

    def wait(self, stream: Any) -> None:
        self._checked(self._runtime.cudaStreamSynchronize(stream))

    def free_memory(self) -> int:
        """Free memory of the device in bytes."""
        return int(self._checked(self._runtime.cudaMemGetInfo()))

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the device."""
        return int(self._checked(self._runtime.cudaMalloc(size)))

    def allocate_pinned(self, size: int) -> int:
        """Allocate `size` bytes of page-locked host memory, which the device accesses directly."""
        return int(self._checked(self._runtime.cudaMallocHost(size)))

    def free(self, address: int) -> None:
        self._checked(self._runtime.cudaFree(address))

    def free_pinned(self, address: int) -> None:
        self._checked(self._runtime.cudaFreeHost(address))

    def to_device(self, device: int, host: int, size: int, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._checked(self._runtime.cudaMemcpyAsync(device, host, size, kind, stream))

    def to_host(self, host: int, device: int, size: int, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._checked(self._runtime.cudaMemcpyAsync(host, device, size, kind, stream))

    def event(self) -> Any:
        return self._checked(self._runtime.cudaEventCreate())

    def record(self, event: Any, stream: Any) -> None:
        self._checked(self._runtime.cudaEventRecord(event, stream))

    def wait_for(self, event: Any) -> None:
        self._checked(self._runtime.cudaEventSynchronize(event))

    def milliseconds(self, start: Any, end: Any) -> float:
        """Time between two recorded events; waits for the second."""
        self.wait_for(end)
        return float(self._checked(self._runtime.cudaEventElapsedTime(start, end)))

    def destroy_event(self, event: Any) -> None:
        self._checked(self._runtime.cudaEventDestroy(event))

    def destroy_stream(self, stream: Any) -> None:
        self._checked(self._runtime.cudaStreamDestroy(stream))

    def begin_capture(self, stream: Any) -> None:
        """Start recording the work of `stream` into a graph instead of executing it."""
        # Other threads may use CUDA during the capture.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._checked(self._runtime.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: Any) -> Any:
        """The recorded graph, ready to launch."""
        graph = self._checked(self._runtime.cudaStreamEndCapture(stream))
        try:
            return self._checked(self._runtime.cudaGraphInstantiate(graph, 0))
        finally:
            self._checked(self._runtime.cudaGraphDestroy(graph))  # the instantiated graph does not need it

    def launch(self, graph: Any, stream: Any) -> None:
        self._checked(self._runtime.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: Any) -> None:
        self._checked(self._runtime.cudaGraphExecDestroy(graph))

    def _checked(self, result: tuple[Any, ...]) -> Any:
        """The first value after the error code in a call's result, or None."""
        error, *values = result
        if int(error) != 0:
            _, text = self._runtime.cudaGetErrorString(error)
            raise CudaError(f"CUDA error: {text.decode()} ({error.name})")
        return values[0] if values else None
