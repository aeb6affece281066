"""The runtime called `onnxruntime-cpu`: ONNX Runtime's own CPU kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from distillkit.errors import UnavailableError
from distillkit.serving import Availability, Bound, Servable, Session, Setting
from distillkit_export.onnx_session import PROVIDER, OnnxSession

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OnnxRuntimeCpu:
    """ONNX files on the CPU."""

    formats: tuple[str, ...] = ("onnx",)

    def availability(self) -> Availability:
        try:
            return Availability(works=True, detail=f"onnxruntime {version('onnxruntime')}, {PROVIDER}")
        except PackageNotFoundError:
            return Availability(
                works=False, detail="onnxruntime is not installed", remedy='pip install "distillkit[runtime]"'
            )

    def settings(self) -> Sequence[Setting]:
        return ({},)

    def open(self, servable: Servable, setting: Setting) -> Session:  # noqa: ARG002 - nothing to set yet
        if servable.format not in self.formats:
            raise UnavailableError(f"onnxruntime-cpu loads {', '.join(self.formats)}, not {servable.format}")
        return _CpuSession(OnnxSession(Path(servable.source)))


class _CpuSession:
    def __init__(self, session: OnnxSession) -> None:
        self._session = session

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"provider": PROVIDER}

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        return self._session(images)

    def bind(self, images: NDArray[Any]) -> Bound:
        return _CpuBatch(self._session, images)


class _CpuBatch:
    def __init__(self, session: OnnxSession, images: NDArray[Any]) -> None:
        self._session, self._images = session, images

    def time(self, queries: int) -> Sequence[float]:
        elapsed = []
        for _ in range(queries):
            start = perf_counter()
            self._session(self._images)
            elapsed.append((perf_counter() - start) * 1e3)
        return elapsed
