"""ONNX Runtime on the CPU: the runtime that every ONNX file is gated in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.errors import GateError, UnavailableError
from distillkit.messages.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

PROVIDER = "CPUExecutionProvider"
FATAL_ONLY = 4
"""ONNX Runtime's log severity: its warnings are about its own optimiser, and its errors are raised as well."""
NO_KERNEL = "NotImplemented"
"""The name of what ONNX Runtime raises for an operator that it has no kernel for in this precision."""

MISTYPED = re.compile(r"Type '(?P<kind>[^']+)' of input parameter \([^)]*\) of operator \((?P<operator>\w+)\)")
"""What ONNX Runtime says where its optimiser made an operator of a type that the operator does not take."""


class OnnxSession:
    """One ONNX file, loaded and ready for batches of any size. `threads` of 0 are as many as ONNX Runtime likes.

    Raises: GateError where ONNX Runtime cannot load it, or run it on a batch; UnavailableError where it has no kernel.
    """

    def __init__(self, file: Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.intra_op_num_threads = threads
        self._name = file.name
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=[PROVIDER])
        except Exception as error:
            raise refused(error, file) from error
        providers = self._session.get_providers()
        # ONNX Runtime falls back in silence; a gate that ran elsewhere than it says proves nothing.
        if providers[0] != PROVIDER:
            raise UnavailableError(f"ONNX Runtime runs on {providers[0]} although {PROVIDER} was asked for")
        (self._input,) = (value.name for value in self._session.get_inputs())

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images [B, C, H, W], normalised, to scores [B, K]."""
        try:
            scores: list[NDArray[np.float32]] = self._session.run(None, {self._input: images})
        except Exception as error:
            raise GateError(
                f"ONNX Runtime cannot run {self._name} on a batch of {len(images)}: {one_line(error)}"
            ) from error
        return scores[0]

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says about its model, `distillkit.*`."""
        return dict(self._session.get_modelmeta().custom_metadata_map)


def all_outputs(model: ModelProto, name: str) -> Callable[[NDArray[Any]], dict[str, NDArray[Any]]]:
    """Run a graph in memory as it stands, without ONNX Runtime's own optimisations, and return every output by name.

    Raises: GateError where ONNX Runtime cannot load it or run it; UnavailableError where it has no kernel for it.
    """
    try:
        session = _as_it_stands(model.SerializeToString())
    except Exception as error:
        if type(error).__name__ == NO_KERNEL:
            raise UnavailableError(f"{PROVIDER} cannot execute it: {_kernel(error)}") from error
        raise GateError(f"ONNX Runtime cannot load {name}: {one_line(error)}") from error
    (entry,) = (value.name for value in session.get_inputs())
    outputs = [value.name for value in session.get_outputs()]

    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        try:
            return dict(zip(outputs, session.run(None, {entry: images}), strict=True))
        except Exception as error:
            raise GateError(f"ONNX Runtime cannot run {name} on a batch of {len(images)}: {one_line(error)}") from error

    return run


def refused(error: Exception, file: Path) -> GateError | UnavailableError:
    """Why a file was not loaded: for want of a kernel here, or because it is broken.

    ONNX Runtime's optimiser writes graphs that are none where its kernels lack a type; what loads without it is whole.
    """
    if type(error).__name__ == NO_KERNEL or _loads_as_it_stands(file):
        return UnavailableError(f"{PROVIDER} cannot execute it: {_kernel(error)}")
    return GateError(f"ONNX Runtime cannot load {file.name}: {one_line(error)}")


def _loads_as_it_stands(file: Path) -> bool:
    """Whether ONNX Runtime takes the file without its own optimisations."""
    try:
        _as_it_stands(str(file))
    except Exception:  # noqa: BLE001 - whatever it raises, the file was not taken
        return False
    return True


def _as_it_stands(model: str | bytes) -> Any:
    """A session on a path or a serialised graph without ONNX Runtime's own optimisations. Raises what that raises."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=[PROVIDER])


def _kernel(error: Exception) -> str:
    """The one sentence of ONNX Runtime's message that names the operator, without its number."""
    text = one_line(error).replace("This is an invalid model. ", "")
    mistyped = MISTYPED.search(text)
    if mistyped:
        return f"operator {mistyped['operator']} takes no {mistyped['kind']}"
    return text.rpartition("] : ")[2].split(" : ", 2)[-1].partition(". ")[0].rstrip(".")
