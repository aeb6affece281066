"""One runtime, asked whether it works and then made to: in an interpreter of its own, which may not come back."""

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
from distillkit_export.isolated_process import Say, serve

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 2
TOLERANCE = 1e-2
"""Of averages between 0 and 1: room for a runtime that computes in bfloat16, none for a wrong answer."""

TORCH_MODEL, TORCH_SIDE = "timm:test_vit", 160
"""The smallest ViT of timm, with random weights, for runtimes that take a model in memory."""


def try_runtime(name: str, plugins: PluginRegistry) -> dict[str, Any]:
    """Whether a runtime says that it works, and what came of running a tiny model in it.

    Returns: its availability, and `runs` and `trial`; of a runtime that says no, `runs` is None.
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
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises is the finding
        reason = one_line(error)
        return {**asdict(availability), "runs": False, "trial": f"{type(error).__name__}: {reason}"}


def _run(runtime: Runtime, plugins: PluginRegistry, folder: Path) -> str:
    """Execute the tiny model, and say what executed it.

    Raises: UnavailableError where the answer is wrong; whatever the runtime raises.
    """
    servable = _servable(runtime, plugins, folder)
    session = runtime.open(servable, runtime.settings()[0])
    if servable.format == "torch":
        scores = session(np.zeros((BATCH, 3, TORCH_SIDE, TORCH_SIDE), np.float32))
        _require(scores, len(scores) == BATCH and bool(np.isfinite(scores).all()))
    else:
        batch = tiny_model.images(BATCH)
        scores = session(batch)
        expected = tiny_model.answer(batch)
        _require(scores, scores.shape == expected.shape and bool(np.abs(scores - expected).max() <= TOLERANCE))
    facts = session.facts
    return ", ".join(str(facts[name]) for name in ("provider", "device", "precision") if name in facts)


def _servable(runtime: Runtime, plugins: PluginRegistry, folder: Path) -> Servable:
    """The tiny model as the runtime takes it: in memory, an ONNX file, or what an exporter makes of that."""
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


def _require(scores: NDArray[np.float32], right: bool) -> None:  # noqa: FBT001 - the verdict on the scores before it
    if not right:
        raise UnavailableError(f"it answers wrongly: {np.array2string(scores.ravel()[:6], precision=3)}")


def work(request: dict[str, Any], _say: Say) -> dict[str, Any]:
    """In the other interpreter: try the runtime that the request names."""
    return try_runtime(request["runtime"], installed_plugins())


if __name__ == "__main__":
    serve(work)
