"""The runtime called `onnxruntime-cpu`: ONNX Runtime's own CPU kernels."""

from __future__ import annotations

from collections.abc import Sequence

from distillkit.contracts.runtime import Availability, InferenceSession, Servable, Setting
from distillkit.errors import UnavailableError
from distillkit_export.runtimes.onnx_runtime import CPU, OnnxRuntimeSession, availability
from distillkit_export.runtimes.processors import thread_counts


class OnnxRuntimeCpu:
    """ONNX files on the CPU.

    Settings: `threads`, of one operator, ONNX Runtime's own choice where it is left out; `spinning`, whether they stay
    awake between operators, which is faster where the machine has nothing else to do.
    """

    formats: tuple[str, ...] = ("onnx",)

    def availability(self) -> Availability:
        return availability(CPU, 'pip install "distillkit[runtime]"')

    def settings(self) -> Sequence[Setting]:
        tried: list[Setting] = [{}]
        for threads in thread_counts():
            tried.append({"threads": threads})
            if threads > 1:
                tried.append({"threads": threads, "spinning": False})
        return tuple(tried)

    def open(self, servable: Servable, setting: Setting) -> InferenceSession:
        if servable.format not in self.formats:
            raise UnavailableError(f"onnxruntime-cpu loads {', '.join(self.formats)}, not {servable.format}")
        return OnnxRuntimeSession(servable, [(CPU, {})], setting)
