"""Our calls of CUDA's runtime on the real cuda-bindings: without a driver each returns an error, while a wrong name,
number or type of arguments would raise something else."""

from __future__ import annotations

import importlib
import inspect
import re
import sys

import pytest

from distillkit_export.tensorrt.cuda import Cuda, CudaError

NO_DRIVER = "CUDA error: CUDA driver version is insufficient for CUDA runtime version (cudaErrorInsufficientDriver)"
CALLS = {
    "devices": lambda cuda, stream, event: cuda.devices(),
    "gpu": lambda cuda, stream, event: cuda.gpu(),
    "stream": lambda cuda, stream, event: cuda.stream(),
    "wait": lambda cuda, stream, event: cuda.wait(stream),
    "free_memory": lambda cuda, stream, event: cuda.free_memory(),
    "allocate": lambda cuda, stream, event: cuda.allocate(16),
    "allocate_pinned": lambda cuda, stream, event: cuda.allocate_pinned(16),
    "free": lambda cuda, stream, event: cuda.free(4096),
    "free_pinned": lambda cuda, stream, event: cuda.free_pinned(4096),
    "to_device": lambda cuda, stream, event: cuda.to_device(4096, 8192, 16, stream),
    "to_host": lambda cuda, stream, event: cuda.to_host(8192, 4096, 16, stream),
    "event": lambda cuda, stream, event: cuda.event(),
    "record": lambda cuda, stream, event: cuda.record(event, stream),
    "wait_for": lambda cuda, stream, event: cuda.wait_for(event),
    "milliseconds": lambda cuda, stream, event: cuda.milliseconds(event, event),
    "destroy_event": lambda cuda, stream, event: cuda.destroy_event(event),
    "destroy_stream": lambda cuda, stream, event: cuda.destroy_stream(stream),
    "begin_capture": lambda cuda, stream, event: cuda.begin_capture(stream),
    "end_capture": lambda cuda, stream, event: cuda.end_capture(stream),
    "launch": lambda cuda, stream, event: cuda.launch(0, stream),
    "destroy_graph": lambda cuda, stream, event: cuda.destroy_graph(0),
}
SAFE_WITHOUT_DRIVER = {"handle", "driver"}


@pytest.fixture
def real():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    if int(runtime.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("this machine has a CUDA driver; the gpu tests make these calls")
    return runtime


def test_every_method_is_called_here():
    methods = {name for name, _ in inspect.getmembers(Cuda, inspect.isfunction) if not name.startswith("_")}
    assert methods == CALLS.keys() | SAFE_WITHOUT_DRIVER


@pytest.mark.parametrize("method", CALLS)
def test_real_bindings_accept_the_call(method, real):
    with pytest.raises(CudaError) as refusal:
        CALLS[method](Cuda(), real.cudaStream_t(), real.cudaEvent_t())
    assert str(refusal.value) == NO_DRIVER


def test_further_graph_calls_have_the_names_and_arguments_that_we_use(real):
    """Calls that follow one that fails without a driver."""
    none = real.cudaError_t.cudaErrorInsufficientDriver
    assert real.cudaGraphInstantiate(real.cudaGraph_t(), 0)[0] == none
    assert real.cudaGraphDestroy(real.cudaGraph_t())[0] == none
    assert real.cudaEventElapsedTime(real.cudaEvent_t(), real.cudaEvent_t())[0] == none
    properties = real.cudaDeviceProp()
    assert isinstance(properties.name, bytes)
    assert (properties.major, properties.minor, properties.totalGlobalMem) == (0, 0, 0)


def test_handle_of_a_stream_is_an_integer(real):
    assert Cuda().handle(real.cudaStream_t(4096)) == 4096


def test_double_of_cuda_has_the_signatures_of_the_real_one(real, double):
    signatures = {
        name: re.findall(r"(\w+)(?:: \w+)?(?:,|$)", function.__doc__.partition("(")[2].partition(")")[0])
        for name, function in vars(real).items()
        if name.startswith("cuda") and callable(function) and function.__doc__ and name[4].isupper()
    }
    importlib.invalidate_caches()
    from cuda.bindings import runtime

    assert runtime is not real
    assert sys.modules["cuda.bindings.runtime"] is runtime
    for name, function in vars(runtime).items():
        if inspect.isfunction(function) and name.startswith("cuda"):
            assert list(inspect.signature(function).parameters) == signatures[name], name
