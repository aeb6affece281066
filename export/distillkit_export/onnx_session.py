"""ONNX Runtime on the CPU: the runtime that every ONNX file is gated in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distillkit.errors import GateError, UnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROVIDER = "CPUExecutionProvider"
FATAL_ONLY = 4
"""ONNX Runtime's log severity: its warnings are about its own optimiser, and its errors are raised as well."""


class OnnxSession:
    """One ONNX file, loaded and ready for batches of any size.

    Raises: GateError where ONNX Runtime cannot load it, or run it on a batch.
    """

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        self._name = file.name
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=[PROVIDER])
        except Exception as error:
            raise GateError(f"ONNX Runtime cannot load {self._name}: {_one_line(error)}") from error
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
                f"ONNX Runtime cannot run {self._name} on a batch of {len(images)}: {_one_line(error)}"
            ) from error
        return scores[0]

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says about its model, `distillkit.*`."""
        return dict(self._session.get_modelmeta().custom_metadata_map)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
