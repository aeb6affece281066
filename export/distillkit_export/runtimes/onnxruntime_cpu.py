"""The runtime `onnxruntime-cpu`: ONNX Runtime with its CPU kernels."""

from __future__ import annotations

from collections.abc import Sequence

from distillkit.contracts.runtime import Availability, InferenceSession, Servable, Setting
from distillkit.errors import UnavailableError
from distillkit_export.runtimes.onnx_runtime import CPU, OnnxRuntimeSession, availability
from distillkit_export.runtimes.processors import thread_counts


class OnnxRuntimeCpu:
    """ONNX files on the CPU.

    Settings: `threads` within one operator, chosen by ONNX Runtime by default; `spinning`, whether threads busy-wait
    between operators, which is faster on an otherwise idle machine.
    """

    formats: tuple[str, ...] = ("onnx",)

    def availability(self) -> Availability:
        return availability(CPU, 'pip install "distillkit[runtime]"')

    def settings(self) -> Sequence[Setting]:
        candidates: list[Setting] = [{}]
        for threads in thread_counts():
            candidates.append({"threads": threads})
            if threads > 1:
                candidates.append({"threads": threads, "spinning": False})
        return tuple(candidates)

    def open(self, servable: Servable, setting: Setting) -> InferenceSession:
        if servable.format not in self.formats:
            raise UnavailableError(f"onnxruntime-cpu loads {', '.join(self.formats)}, not {servable.format}")
        return OnnxRuntimeSession(servable, [(CPU, {})], setting)
