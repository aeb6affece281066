"""The runtime `openvino`: Intel OpenVINO on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.contracts.runtime import Availability, Bound, InferenceSession, Servable, Setting
from distillkit.errors import GateError, UnavailableError
from distillkit.messages.text import one_line
from distillkit_export.onnx.session import loadable, reason
from distillkit_export.runtimes.host_clock import HostTimed
from distillkit_export.runtimes.processors import thread_counts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REMEDY = 'pip install "distillkit[openvino]"'
ARITHMETIC = {"bf16": "bf16"}
"""OpenVINO's inference precision by the requested precision, else float32. It must be set: by default OpenVINO silently
uses bfloat16 wherever the CPU supports it."""


def _openvino() -> Any:
    """The package, without its reports of use to Intel.

    Importing it starts processes that send them. They hold the pipes of this process; one was seen to wait for ever.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # a package that cannot be imported
    import openvino

    return openvino


class OpenVino:
    """ONNX files in OpenVINO, optimised for latency.

    Settings: `threads`, chosen by OpenVINO by default; `pinning`, whether threads are pinned to CPUs.
    Precision "bf16" computes a float32 file in bfloat16.
    """

    formats: tuple[str, ...] = ("onnx",)

    def availability(self) -> Availability:
        if find_spec("openvino") is None:
            return Availability(works=False, detail="openvino is not installed", remedy=REMEDY)
        try:
            return Availability(works=True, detail=f"openvino {version('openvino')}, CPU")
        except PackageNotFoundError:
            return Availability(works=False, detail="openvino is only partly installed", remedy=REMEDY)

    def settings(self) -> Sequence[Setting]:
        candidates: list[Setting] = [{}]
        for threads in thread_counts():
            candidates += [{"threads": threads}, {"threads": threads, "pinning": False}]
        return tuple(candidates)

    def open(self, servable: Servable, setting: Setting) -> InferenceSession:
        if servable.format not in self.formats:
            raise UnavailableError(f"openvino loads {', '.join(self.formats)}, not {servable.format}")
        found = self.availability()
        if not found.works:
            raise UnavailableError(f"openvino does not work here: {found.detail}; {found.remedy}")
        return _OpenVinoSession(servable, setting)


class _OpenVinoSession:
    """One ONNX file compiled by OpenVINO; images [B, C, H, W] or [B, H, W, C] uint8 to scores [B, K]."""

    def __init__(self, servable: Servable, setting: Setting) -> None:
        file = Path(servable.source)
        self._file = file.name
        wanted = ARITHMETIC.get(servable.precision, "f32")
        configuration: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": wanted}
        if "threads" in setting:
            configuration["INFERENCE_NUM_THREADS"] = int(setting["threads"])
        if "pinning" in setting:
            configuration["ENABLE_CPU_PINNING"] = bool(setting["pinning"])
        with servable.checked() as model:
            try:
                core, source = _openvino().Core(), loadable(model)
                self._compiled = core.compile_model(
                    core.read_model(source) if isinstance(source, bytes) else source, "CPU", configuration
                )
            except Exception as error:
                raise GateError(f"OpenVINO cannot load {file.name}: {reason(error, file, model)}") from error
        computes_in = str(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        if wanted == "bf16" and computes_in != "bf16":
            raise UnavailableError(f"OpenVINO computes {file.name} in {computes_in} on this CPU, not in bf16")
        self._request = self._compiled.create_infer_request()
        self._facts = {
            "device": "cpu",
            "clock": "host",
            "provider": f"OpenVINO {self._compiled.get_property('EXECUTION_DEVICES')[0]}",
            "precision": servable.precision,
            "arithmetic": computes_in,
            "threads": int(self._compiled.get_property("INFERENCE_NUM_THREADS")),
            "streams": int(self._compiled.get_property("NUM_STREAMS")),
            "pinning": bool(self._compiled.get_property("ENABLE_CPU_PINNING")),
            "hint": "LATENCY",
        }

    @property
    def facts(self) -> Mapping[str, Any]:
        return dict(self._facts)

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        try:
            scores: NDArray[np.float32] = self._request.infer({0: images})[0]
        except Exception as error:
            raise GateError(
                f"OpenVINO cannot run {self._file} on a batch of {len(images)}: {one_line(error)}"
            ) from error
        return scores.copy()  # the request reuses its output buffer

    def bind(self, images: NDArray[Any]) -> Bound:
        """A separate request that holds a copy of the images and its output."""
        request = self._compiled.create_infer_request()
        # OpenVINO holds no reference to shared memory: the images could be freed before the request reads them.
        request.set_input_tensor(_openvino().Tensor(images, shared_memory=False))
        return HostTimed(request.infer)
