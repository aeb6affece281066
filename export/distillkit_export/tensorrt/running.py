"""Run an engine: memory, one stream, CUDA graphs and events, with only TensorRT and CUDA's runtime.

This module imports TensorRT; `runtime` imports this one after `preflight` has found TensorRT and a GPU.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt
from numpy.typing import NDArray

from distillkit.errors import GateError, UnavailableError
from distillkit_export.tensorrt.building import Logger, inspector_report, tensors_of
from distillkit_export.tensorrt.cuda import Cuda, CudaError
from distillkit_export.tensorrt.layers import precision_of_layers, types_of
from distillkit_export.tensorrt.options import BatchProfile
from distillkit_export.tensorrt.trust import require_trusted

DTYPES: Mapping[str, Any] = {"float": np.float32, "half": np.float16, "uint8": np.uint8}


class Engine:
    """An engine loaded on the GPU, with its execution context and stream.

    Raises: UnavailableError for an engine that this machine did not build, or that TensorRT cannot load.
    """

    def __init__(self, file: Path) -> None:
        plan = file.read_bytes()
        require_trusted(plan, file.name)  # the bytes that are loaded below, so the file cannot change in between
        self._name = file.name
        self.cuda = Cuda()
        if self.cuda.devices() == 0:
            raise UnavailableError("CUDA finds no usable GPU")
        self.free_before = self.cuda.free_memory()
        self._logger = Logger()
        self._runtime = trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise UnavailableError(f"TensorRT {trt.__version__} cannot load {file.name}: {self._logger.last_error()}")
        context = engine.create_execution_context()
        if context is None:
            raise UnavailableError(f"TensorRT {trt.__version__} cannot run {file.name}: {self._logger.last_error()}")
        self._engine, self._context = engine, context
        self.types = types_of(inspector_report(engine))
        self.input, self.output = _one_of_each(engine, file.name)
        self.batch = BatchProfile(*(shape[0] for shape in engine.get_tensor_profile_shape(self.input.name, 0)))
        self.stream = self.cuda.stream()
        self._require(context.set_optimization_profile_async(0, self.cuda.handle(self.stream)), "select its profile")
        self.cuda.wait(self.stream)
        self._bound: weakref.ref[Batch] | None = None
        weakref.finalize(self, self.cuda.destroy_stream, self.stream)

    @property
    def facts(self) -> dict[str, Any]:
        """The engine's properties, with the precision that its inspector reports."""
        return {
            "device": "cuda:0",
            "clock": "device",
            "provider": f"tensorrt {trt.__version__}",
            "gpu": self.cuda.gpu().name,
            "precision": precision_of_layers(self.types) or "unknown: not reported by the engine",
            "layers": self.types,
            "batch": str(self.batch),
            "scratch_bytes": self._engine.device_memory_size_v2,
        }

    def bind(self, batch: Batch) -> None:
        """Bind the engine to the memory of `batch`, unless it already is."""
        if self.is_bound_to(batch):
            return
        shape = (batch.size, *self.input.shape)
        self._require(self._context.set_input_shape(self.input.name, shape), f"accept images {list(shape)}")
        missing = self._context.infer_shapes()
        if missing:
            raise GateError(f"engine {self._name} cannot infer the shape of {', '.join(missing)}")
        for tensor, address in ((self.input, batch.device_input), (self.output, batch.device_output)):
            self._require(self._context.set_tensor_address(tensor.name, address), f"use memory for {tensor.name}")
        self._bound = weakref.ref(batch)

    def is_bound_to(self, batch: Batch) -> bool:
        return self._bound is not None and self._bound() is batch

    def enqueue(self) -> None:
        self._require(self._context.execute_async_v3(self.cuda.handle(self.stream)), "run")

    def _require(self, done: bool, what: str) -> None:  # noqa: FBT001 - a result of TensorRT
        if not done:
            raise GateError(f"engine {self._name} cannot {what}: {self._logger.last_error()}")


class Tensor:
    """An input or output of an engine; `shape` is without the batch."""

    def __init__(self, name: str, dtype: str, shape: Sequence[int]) -> None:
        if dtype not in DTYPES:
            raise UnavailableError(f"tensor '{name}' of the engine has type {dtype}, not {', '.join(DTYPES)}")
        self.name, self.dtype, self.shape = name, np.dtype(DTYPES[dtype]), tuple(shape[1:])

    def bytes(self, batch: int) -> int:
        return batch * math.prod(self.shape) * int(self.dtype.itemsize)


class Batch:
    """Buffers for `size` images and their scores, on the device and page-locked on the host.

    Shapes: images [B, C, H, W], or [B, H, W, C] uint8, as the engine expects; scores [B, K], or embeddings [B, D].
    """

    def __init__(self, engine: Engine, size: int) -> None:
        self._engine, self.size = engine, size
        cuda, into, out = engine.cuda, engine.input.bytes(size), engine.output.bytes(size)
        self.device_input = self._owned(cuda.allocate(into), cuda.free)
        self.device_output = self._owned(cuda.allocate(out), cuda.free)
        self.host_input = self._owned(cuda.allocate_pinned(into), cuda.free_pinned)
        self.host_output = self._owned(cuda.allocate_pinned(out), cuda.free_pinned)

    def put(self, images: NDArray[Any]) -> None:
        """Copy images to the device, on the engine's stream."""
        values = np.ascontiguousarray(images, dtype=self._engine.input.dtype)
        if values.shape != (self.size, *self._engine.input.shape):
            expected = " x ".join(map(str, self._engine.input.shape))
            raise GateError(f"the engine expects images {expected}, not {' x '.join(map(str, values.shape[1:]))}")
        ctypes.memmove(self.host_input, values.ctypes.data, values.nbytes)
        self._engine.cuda.to_device(self.device_input, self.host_input, values.nbytes, self._engine.stream)

    def scores(self) -> NDArray[np.float32]:
        """Copy the scores to the host and wait for them."""
        engine = self._engine
        engine.cuda.to_host(self.host_output, self.device_output, engine.output.bytes(self.size), engine.stream)
        engine.cuda.wait(engine.stream)
        values = np.empty((self.size, *engine.output.shape), engine.output.dtype)
        ctypes.memmove(values.ctypes.data, self.host_output, values.nbytes)
        return values.astype(np.float32)

    def compute(self) -> None:
        self._engine.bind(self)
        self._engine.enqueue()

    def _owned(self, address: int, free: Callable[[int], None]) -> int:
        """An address that is freed with this batch, or when the process ends."""
        weakref.finalize(self, free, address)
        return address


class TensorRtSession:
    """A session on an engine: scores any number of images, binds batches to the device, and reports facts.

    Shapes: images [B, C, H, W], or [B, H, W, C] uint8, as the engine expects; returns scores [B, K].
    """

    def __init__(self, file: Path, *, cuda_graph: bool) -> None:
        self._engine = Engine(file)
        self._graphs = cuda_graph
        self._no_graph = "" if cuda_graph else "not requested"
        self._batches: dict[int, Batch] = {}

    def device_bytes(self) -> int:
        """Decrease of free GPU memory since before the engine was loaded; includes other processes."""
        return max(0, self._engine.free_before - self._engine.cuda.free_memory())

    @property
    def facts(self) -> Mapping[str, Any]:
        """The engine's facts. `cuda_graph` is the setting until a batch is timed, then whether one was captured."""
        reason = {"no_cuda_graph": self._no_graph} if self._no_graph else {}
        return {**self._engine.facts, "cuda_graph": self._graphs, **reason}

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Scores [B, K] of any number of images.

        More images than the largest batch are split; fewer than the smallest are padded by repetition.
        """
        return np.concatenate([self._scores(part) for part in self._split(images)])  # [B, K]

    def bind(self, images: NDArray[Any]) -> TimedBatch:
        profile = self._engine.batch
        if not profile.smallest <= len(images) <= profile.largest:
            raise UnavailableError(
                f"the engine accepts batches of {profile.smallest} to {profile.largest}, not {len(images)}; build one "
                f"with --batch {min(len(images), profile.smallest)}:{profile.typical}:"
                f"{max(len(images), profile.largest)}"
            )
        batch = Batch(self._engine, len(images))
        batch.put(images)
        self._engine.cuda.wait(self._engine.stream)
        return TimedBatch(self._engine, batch, self)

    def capture(self, batch: Batch) -> Any | None:
        """A CUDA graph of one run; None if it is off or CUDA cannot capture it, as the facts then report."""
        if not self._graphs:
            return None
        cuda, stream = self._engine.cuda, self._engine.stream
        try:
            cuda.begin_capture(stream)
            try:
                batch.compute()
            finally:
                graph = cuda.end_capture(stream)
        except (CudaError, GateError) as error:
            self._graphs, self._no_graph = False, str(error)
            return None
        weakref.finalize(batch, cuda.destroy_graph, graph)
        return graph

    def _split(self, images: NDArray[Any]) -> Iterator[NDArray[Any]]:
        largest = self._engine.batch.largest
        for start in range(0, max(len(images), 1), largest):
            yield images[start : start + largest]

    def _scores(self, images: NDArray[Any]) -> NDArray[np.float32]:
        size = max(len(images), self._engine.batch.smallest)
        padded = np.take(images, range(size), axis=0, mode="wrap") if size > len(images) else images
        if size not in self._batches:
            self._batches.clear()  # keep only one: a parity check uses many sizes
            self._batches[size] = Batch(self._engine, size)
        batch = self._batches[size]
        batch.put(padded)
        batch.compute()
        return batch.scores()[: len(images)]


class TimedBatch:
    """A batch bound to the device, timed by CUDA events around each launch."""

    def __init__(self, engine: Engine, batch: Batch, session: TensorRtSession) -> None:
        self._engine, self._batch, self._session = engine, batch, session
        self._graph: Any | None = None

    def time(self, queries: int) -> Sequence[float]:
        """Latency of each query in milliseconds."""
        cuda, stream = self._engine.cuda, self._engine.stream
        if not self._engine.is_bound_to(self._batch):
            # Another batch was bound since. TensorRT requires one plain run before it can be captured.
            self._batch.compute()
            cuda.wait(stream)
            self._graph = self._session.capture(self._batch)
        events = [(cuda.event(), cuda.event()) for _ in range(queries)]
        try:
            for number, (start, end) in enumerate(events):
                if number > 1:
                    cuda.wait_for(events[number - 2][1])  # at most one query is queued while another computes
                cuda.record(start, stream)
                if self._graph is None:
                    self._batch.compute()
                else:
                    cuda.launch(self._graph, stream)
                cuda.record(end, stream)
            cuda.wait(stream)
            return [cuda.milliseconds(start, end) for start, end in events]
        finally:
            for pair in events:
                for event in pair:
                    cuda.destroy_event(event)


def _one_of_each(engine: trt.ICudaEngine, name: str) -> tuple[Tensor, Tensor]:
    """The input and the output of an engine, which must have one of each."""
    found: dict[str, list[Tensor]] = {"input": [], "output": []}
    for tensor in tensors_of(engine):
        found.setdefault(tensor["mode"], []).append(Tensor(tensor["name"], tensor["dtype"], tensor["shape"]))
    if len(found["input"]) != 1 or len(found["output"]) != 1:
        raise UnavailableError(
            f"engine {name} has {len(found['input'])} inputs and {len(found['output'])} outputs, not one of each"
        )
    return found["input"][0], found["output"][0]
