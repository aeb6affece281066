"""CUDA's runtime for tests: host memory serves as device memory, and streams execute immediately.

Names, arguments and results are those of the real cuda-bindings, as test_cuda.py checks.
"""

import ctypes
import enum
import os
import time

cudaStreamNonBlocking = 1
living = {}
"""Addresses of allocated memory, by kind."""
captured = None
"""The work recorded for a graph, or None if no stream is being captured."""


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInsufficientDriver = 35
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class Handle:
    def __init__(self, value):
        self.value = value

    def __int__(self):
        return self.value


class Properties:
    name = b"NVIDIA Double 1"
    major, minor = 8, 9
    totalGlobalMem = 1 << 30


OK = cudaError_t.cudaSuccess


def _fails(how):
    """Whether the test makes this fail."""
    return os.environ.get("CUDA_DOUBLE_FAILS") == how


def cudaGetDeviceCount():
    if _fails("driver"):
        return cudaError_t.cudaErrorInsufficientDriver, None
    return OK, 0 if _fails("none") else 1


def cudaGetDeviceProperties(device):
    properties = Properties()
    properties.name = os.environ.get("CUDA_DOUBLE_GPU", "NVIDIA Double 1").encode()
    return OK, properties


def cudaDriverGetVersion():
    return OK, 13010


def cudaGetErrorString(error):
    return OK, {35: b"CUDA driver version is insufficient for CUDA runtime version"}.get(int(error), b"not supported")


def cudaStreamCreateWithFlags(flags):
    return OK, Handle(7)


def cudaStreamSynchronize(stream):
    return (OK,)


def cudaStreamDestroy(stream):
    return (OK,)


def cudaMemGetInfo():
    total = 1 << 30
    return OK, total - sum(len(memory) for kind, memory in living.values() if kind == "device"), total


def _allocate(kind, size):
    memory = ctypes.create_string_buffer(size)
    living[ctypes.addressof(memory)] = (kind, memory)
    return OK, ctypes.addressof(memory)


def _free(kind, address):
    assert living.pop(address)[0] == kind
    return (OK,)


def cudaMalloc(size):
    return _allocate("device", size)


def cudaMallocHost(size):
    return _allocate("host", size)


def cudaFree(devPtr):
    return _free("device", devPtr)


def cudaFreeHost(ptr):
    return _free("host", ptr)


def cudaMemcpyAsync(dst, src, count, kind, stream):
    sides = ("device", "host") if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else ("host", "device")
    for address, side in zip((dst, src), sides, strict=True):
        held, memory = living[address]
        assert held == side
        assert count <= len(memory)
    ctypes.memmove(dst, src, count)
    return (OK,)


def cudaEventCreate():
    return OK, Handle(0)


def cudaEventRecord(event, stream):
    event.time = time.perf_counter()
    return (OK,)


def cudaEventSynchronize(event):
    return (OK,)


def cudaEventElapsedTime(start, end):
    return OK, (end.time - start.time) * 1e3


def cudaEventDestroy(event):
    return (OK,)


def cudaStreamBeginCapture(stream, mode):
    global captured
    if _fails("graph"):
        return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
    captured = []
    return (OK,)


def cudaStreamEndCapture(stream):
    global captured
    if captured is None:
        return cudaError_t.cudaErrorStreamCaptureUnsupported, None
    graph = Handle(1)
    graph.work = captured
    captured = None
    return OK, graph


def cudaGraphInstantiate(graph, flags):
    executable = Handle(2)
    executable.work = graph.work
    return OK, executable


def cudaGraphLaunch(graphExec, stream):
    for work in graphExec.work:
        work()
    return (OK,)


def cudaGraphDestroy(graph):
    return (OK,)


def cudaGraphExecDestroy(graphExec):
    return (OK,)
