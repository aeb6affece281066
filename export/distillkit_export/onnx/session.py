"""ONNX Runtime session on the CPU, in which every ONNX file is gated."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.errors import GateError, UnavailableError
from distillkit.messages.text import one_line
from distillkit.storage.untrusted import LARGEST_FILE, read_plain_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

PROVIDER = "CPUExecutionProvider"
FATAL_ONLY = 4
"""ONNX Runtime's log severity: its warnings are about its optimiser, and its errors are raised anyway."""
NO_KERNEL = "NotImplemented"
"""Class name of ONNX Runtime's error for an operator without a kernel in this precision."""

MISTYPED = re.compile(r"Type '(?P<kind>[^']+)' of input parameter \([^)]*\) of operator \((?P<operator>\w+)\)")
"""ONNX Runtime's message when its optimiser gave an operator an input type that the operator does not accept."""


def loadable(model: str | bytes) -> str | bytes:
    """What a runtime loads a model from: its content, or its path unless that is not text to the runtime.

    In an ASCII locale Python reads other characters of a path as surrogates, which ONNX Runtime and OpenVINO refuse.
    """
    if isinstance(model, bytes):
        return model
    try:
        model.encode()
    except UnicodeEncodeError:
        return read_plain_bytes(Path(model), largest=LARGEST_FILE)
    return model


class OnnxSession:
    """One ONNX file, loaded and ready for batches of any size. `threads` 0 leaves the number to ONNX Runtime.

    `model` is what to load, if not the file under its name: see `Servable.checked`.

    Raises: GateError if ONNX Runtime cannot load it, or run it on a batch; UnavailableError if it has no kernel.
    """

    def __init__(self, file: Path, threads: int = 0, model: str | bytes | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.intra_op_num_threads = threads
        self._name, model = file.name, str(file) if model is None else model
        try:
            model = loadable(model)
            self._session = onnxruntime.InferenceSession(model, options, providers=[PROVIDER])
        except Exception as error:
            raise load_error(error, file, model) from error
        providers = self._session.get_providers()
        # ONNX Runtime falls back silently; a gate that ran on another provider proves nothing.
        if providers[0] != PROVIDER:
            raise UnavailableError(f"ONNX Runtime fell back to {providers[0]}; {PROVIDER} was requested")
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
        """The file's custom metadata, keys `distillkit.*`."""
        return dict(self._session.get_modelmeta().custom_metadata_map)


def all_outputs(model: ModelProto, name: str) -> Callable[[NDArray[Any]], dict[str, NDArray[Any]]]:
    """A function that runs a graph in memory, without ONNX Runtime's optimisations, and returns every output by name.

    Shapes: images as the graph's input, [B, ...]; outputs of any shape.
    Raises: GateError if ONNX Runtime cannot load or run it; UnavailableError if it has no kernel for it.
    """
    try:
        session = _unoptimised_session(model.SerializeToString())
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


def load_error(error: Exception, file: Path, model: str | bytes) -> GateError | UnavailableError:
    """The error for a file that did not load: UnavailableError for a missing kernel, GateError for a broken file.

    `model` is what was loaded: the path of the file, or its content.

    Where a kernel lacks a type, ONNX Runtime's optimiser may produce an invalid graph; a file that loads without the
    optimiser is valid.
    """
    if type(error).__name__ == NO_KERNEL or _loads_unoptimised(model):
        return UnavailableError(f"{PROVIDER} cannot execute it: {_kernel(error)}")
    return GateError(f"ONNX Runtime cannot load {file.name}: {reason(error, file, model)}")


def reason(error: Exception, file: Path, model: str | bytes) -> str:
    """The message of an error in loading, with the path of the file in place of that of the opened file."""
    return one_line(error).replace(model, str(file)) if isinstance(model, str) else one_line(error)


def _loads_unoptimised(model: str | bytes) -> bool:
    """Whether ONNX Runtime loads the file without its optimisations."""
    try:
        _unoptimised_session(model)
    except Exception:  # noqa: BLE001 - any error means that the file does not load
        return False
    return True


def _unoptimised_session(model: str | bytes) -> Any:
    """A session on a path or a serialised graph without ONNX Runtime's optimisations. Raises ONNX Runtime's errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=[PROVIDER])


def _kernel(error: Exception) -> str:
    """The sentence of ONNX Runtime's message that names the operator, without the error code."""
    text = one_line(error).replace("This is an invalid model. ", "")
    mistyped = MISTYPED.search(text)
    if mistyped:
        return f"operator {mistyped['operator']} does not accept {mistyped['kind']}"
    return text.rpartition("] : ")[2].split(" : ", 2)[-1].partition(". ")[0].rstrip(".")
