"""Trial of one runtime: check its availability and execute a tiny model, in a separate process because it may crash."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.contracts.exporter import ExportRequest, ExportSource
from distillkit.contracts.runtime import Availability, Runtime, Servable
from distillkit.errors import DistillkitError, UnavailableError
from distillkit.messages.text import one_line
from distillkit.plugin.registry import PluginRegistry, installed_plugins
from distillkit_export.doctor import tiny_model
from distillkit_export.isolated_process import SendEvent, serve

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 2
TOLERANCE = 1e-2
"""Allowed error of means between 0 and 1: enough for bfloat16, too small for a wrong output."""

TORCH_MODEL, TORCH_SIDE = "timm:test_vit", 160
"""timm's smallest ViT, with random weights, for runtimes that execute a torch model in memory."""


def try_runtime(name: str, plugins: PluginRegistry) -> dict[str, Any]:
    """Check whether a runtime is available, and execute a tiny model in it.

    Returns: its availability, `runs` and `trial`; for an unavailable runtime, `runs` is None.
    """
    runtime: Runtime = plugins.find("runtime", name).create()
    availability: Availability = runtime.availability()
    if not availability.works:
        return {**asdict(availability), "runs": None, "trial": ""}
    try:
        with tempfile.TemporaryDirectory() as folder:
            return {**asdict(availability), "runs": True, "trial": _run(runtime, plugins, Path(folder))}
    except DistillkitError as error:
        return {**asdict(availability), "runs": False, "trial": str(error)}
    except Exception as error:  # noqa: BLE001 - any error of a runtime is its result
        reason = one_line(error)
        return {**asdict(availability), "runs": False, "trial": f"{type(error).__name__}: {reason}"}


def _run(runtime: Runtime, plugins: PluginRegistry, folder: Path) -> str:
    """Execute the tiny model and return the provider, device and precision that executed it.

    Raises: UnavailableError for a wrong output; whatever the runtime raises.
    """
    servable = _servable(runtime, plugins, folder)
    session = runtime.open(servable, runtime.settings()[0])
    if servable.format == "torch":
        # The weights are random, so there is no expected output.
        scores = session(np.zeros((BATCH, 3, TORCH_SIDE, TORCH_SIDE), np.float32))  # [B, K]
        _require(scores, len(scores) == BATCH and bool(np.isfinite(scores).all()))
    else:
        batch = tiny_model.images(BATCH)
        scores = session(batch)
        expected = tiny_model.expected_output(batch)
        _require(scores, scores.shape == expected.shape and bool(np.abs(scores - expected).max() <= TOLERANCE))
    facts = session.facts
    return ", ".join(str(facts[name]) for name in ("provider", "device", "precision") if name in facts)


def _servable(runtime: Runtime, plugins: PluginRegistry, folder: Path) -> Servable:
    """The tiny model in a format of the runtime: in memory, as ONNX, or exported from that ONNX file."""
    if "torch" in runtime.formats:
        return Servable("torch", TORCH_MODEL, request=ExportRequest(), weights="none")
    onnx = folder / "tiny.onnx"
    onnx.write_bytes(tiny_model.ONNX)
    if "onnx" in runtime.formats:
        return Servable("onnx", str(onnx))
    format_ = runtime.formats[0]
    plugin = plugins.find("exporter", format_)
    exporter = plugin.create(plugin.options({}))
    exporter.check()
    artifact = exporter.write(ExportSource(ExportRequest(), onnx={"fp32": onnx}), folder, "fp32")
    return Servable(format_, str(folder / artifact.file))


def _require(scores: NDArray[np.float32], correct: bool) -> None:  # noqa: FBT001 - about the argument before it
    if not correct:
        raise UnavailableError(f"its output is wrong: {np.array2string(scores.ravel()[:6], precision=3)}")


def work(request: dict[str, Any], _send: SendEvent) -> dict[str, Any]:
    """Run in the child process: try the runtime named in the request."""
    return try_runtime(request["runtime"], installed_plugins())


if __name__ == "__main__":
    serve(work)
