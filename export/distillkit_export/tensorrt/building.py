"""Build an engine from an ONNX file, using only the Python API shared by TensorRT 10 and 11.

Networks are always strongly typed: the graph fixes the precision and TensorRT may not change it. So there are no
precision flags, calibrators or per-layer precisions; TensorRT 11 has removed them.
This module imports TensorRT; only the subprocess of `build_engine` and `running` import this one.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

import tensorrt as trt

from distillkit.errors import UnavailableError
from distillkit.storage.atomic import write_bytes
from distillkit_export.isolated_process import SendEvent
from distillkit_export.tensorrt.layers import type_named, types_of
from distillkit_export.tensorrt.options import BatchProfile, TensorRtOptions
from distillkit_export.tensorrt.timing_cache import read_cache, write_cache

T = TypeVar("T")


class Logger(trt.ILogger):
    """Write TensorRT's messages to the build log and keep its errors.

    It must outlive every object created with it.
    """

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(msg)
        if severity != trt.ILogger.Severity.VERBOSE:
            print(f"[{severity.name}] {msg}", file=sys.stderr, flush=True)  # noqa: T201 - the log

    def last_error(self) -> str:
        return " ".join(self.errors[-1].split()) if self.errors else "no error message"


class Monitor(trt.IProgressMonitor):
    """Report the progress of the build to the parent process."""

    def __init__(self, send: SendEvent) -> None:
        trt.IProgressMonitor.__init__(self)
        self._send = send
        self._steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._steps[phase_name] = num_steps
        self._send({"phase": phase_name, "within": parent_phase, "done": 0, "steps": num_steps})

    def step_complete(self, phase_name: str, step: int) -> bool:
        self._send({"phase": phase_name, "done": step + 1, "steps": self._steps.get(phase_name, 0)})
        return True  # False would cancel the build

    def phase_finish(self, phase_name: str) -> None:
        steps = self._steps.pop(phase_name, 0)
        self._send({"phase": phase_name, "done": steps, "steps": steps})


def build(onnx: Path, plan: Path, options: TensorRtOptions, cache: Path, send: SendEvent) -> dict[str, Any]:
    """Write the engine of `onnx` to `plan`; returns facts about the engine and the build.

    Raises: UnavailableError with TensorRT's error message.
    """
    started = time.perf_counter()
    logger = Logger()
    builder = trt.Builder(logger)
    network = _required(builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)), "network")
    _parse(network, onnx, logger)
    config = _required(builder.create_builder_config(), "configuration")
    _configure(config, options)
    config.add_optimization_profile(_profile(builder, network, options.batch))
    config.progress_monitor = Monitor(send)
    cached = _load_cache(config, cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UnavailableError(f"TensorRT {trt.__version__} cannot build {onnx.name}: {logger.last_error()}")
    write_bytes(plan, bytes(engine))
    timings = _required(config.get_timing_cache(), "timing cache")
    write_cache(cache, bytes(_required(timings.serialize(), "timing cache")))
    seconds = time.perf_counter() - started
    return {
        "timing_cache": cached,
        "build_s": seconds,
        "network": _network_types(network),
        **_inspect(bytes(engine), logger, version_compatible=options.version_compatible),
    }


def _parse(network: trt.INetworkDefinition, onnx: Path, logger: Logger) -> None:
    parser = trt.OnnxParser(network, logger)
    # The parser needs the path to find external weights next to the file.
    if not parser.parse(onnx.read_bytes(), str(onnx)):
        errors = [_required(parser.get_error(index), "error").desc() for index in range(parser.num_errors)]
        reason = "; ".join(" ".join(error.split()) for error in errors) or logger.last_error()
        raise UnavailableError(f"TensorRT {trt.__version__} cannot read {onnx.name}: {reason}")


def _configure(config: trt.IBuilderConfig, options: TensorRtOptions) -> None:
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector reports types
    if not options.tf32:  # on by default, but its 10-bit mantissa is not float32
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        # The lean runtime would put host code into the engine, which we never load.
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)


def _profile(builder: trt.Builder, network: trt.INetworkDefinition, batch: BatchProfile) -> trt.IOptimizationProfile:
    profile = _required(builder.create_optimization_profile(), "profile")
    for index in range(network.num_inputs):
        tensor = _required(network.get_input(index), "input")
        _, *rest = shape = tuple(tensor.shape)
        if shape[0] != -1 or -1 in rest:
            shown = " x ".join("?" if size == -1 else str(size) for size in shape)
            raise UnavailableError(
                f"input '{tensor.name}' has shape {shown}, but an engine needs a dynamic batch and a fixed image size; "
                "export the ONNX file that way"
            )
        profile.set_shape(
            tensor.name, min=(batch.smallest, *rest), opt=(batch.typical, *rest), max=(batch.largest, *rest)
        )
    return profile


def _load_cache(config: trt.IBuilderConfig, file: Path) -> str:
    """Load the timing cache into the builder; start a new one if it is invalid or of another machine.

    Returns: "reused", "new" or "unusable".
    """
    content = read_cache(file)
    loaded = config.create_timing_cache(content) if content else None
    if loaded is not None and config.set_timing_cache(loaded, ignore_mismatch=False):
        return "reused"
    config.set_timing_cache(_required(config.create_timing_cache(b""), "timing cache"), ignore_mismatch=False)
    return "unusable" if content else "new"


def _network_types(network: trt.INetworkDefinition) -> dict[str, int]:
    """Number of layers of the strongly typed network by output type."""
    found: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = _required(network.get_layer(index), "layer")
        outputs = [_required(layer.get_output(number), "output") for number in range(layer.num_outputs)]
        found.update({kind for output in outputs if (kind := type_named(output.dtype.name))})
    return dict(sorted(found.items()))


def _inspect(plan: bytes, logger: Logger, *, version_compatible: bool) -> dict[str, Any]:
    """The engine's inspector report, layer types and tensors."""
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        if version_compatible:  # may need a lean runtime of the serving program to load
            return {"report": "", "layers": {}, "tensors": []}
        raise UnavailableError(
            f"TensorRT {trt.__version__} cannot load the engine that it just built: {logger.last_error()}"
        )
    report = inspector_report(engine)
    return {"report": report, "layers": types_of(report), "tensors": tensors_of(engine)}


def inspector_report(engine: trt.ICudaEngine) -> str:
    """The engine's layers as JSON, from its inspector."""
    inspector = _required(engine.create_engine_inspector(), "inspector")
    return inspector.get_engine_information(trt.LayerInformationFormat.JSON)


def tensors_of(engine: trt.ICudaEngine) -> list[dict[str, Any]]:
    """The engine's inputs and outputs: name, mode, dtype and shape."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return [
        {
            "name": name,
            "mode": engine.get_tensor_mode(name).name.lower(),
            "dtype": engine.get_tensor_dtype(name).name.lower(),
            "shape": list(engine.get_tensor_shape(name)),
        }
        for name in names
    ]


def _required(thing: T | None, what: str) -> T:
    """`thing`, unless TensorRT failed and returned null."""
    if thing is None:
        raise UnavailableError(f"TensorRT {trt.__version__} returned no {what}; see its log")
    return thing
