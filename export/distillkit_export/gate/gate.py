"""The gate: run an exported file and compare its outputs with the model's, within the limits of its precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from distillkit.errors import DistillkitError, GateError, UnavailableError
from distillkit.plugin.error_attribution import blamed
from distillkit_export.gate.parity import Parity, Reference, measure
from distillkit_export.onnx.first_difference import first_difference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from distillkit.contracts.exporter import Artifact, Precision, Scorer
    from distillkit_export.gate.checks import GateCheck
    from distillkit_export.gate.limits import Limits

LAYER_SEARCH_IMAGES = 8
"""Number of images used to find the first layer that differs."""

GateOutcome = Literal["passed", "ungated", "failed"]


@dataclass(frozen=True)
class Verdict:
    """Result of the gate for one file: its parity metrics, the other checks, and why it did not pass.

    `parity` is None if no runtime here executes the file. `reason` completes a sentence that starts with the file name.
    `kept` is False for a file that was made only for comparison. `relative_latency` is the latency for one image on
    this machine, divided by that of the float32 file; `latency_caveats` are reasons not to trust it.
    """

    artifact: Artifact
    outcome: GateOutcome
    runtime: str
    bytes: int
    parity: Parity | None = None
    checks: tuple[GateCheck, ...] = ()
    reason: str = ""
    kept: bool = True
    relative_latency: float | None = None
    latency_caveats: tuple[str, ...] = ()

    @property
    def failure(self) -> str:
        """The reason as a full sentence, for a file that failed or was not gated."""
        return f"{self.artifact.file} {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """The entry of this file in parity.json."""
        return {
            "gate": self.outcome,
            "reason": self.reason or None,
            "precision": self.artifact.precision,
            "runtime": self.runtime,
            "bytes": self.bytes,
            "kept": self.kept,
            "relative_latency": self.relative_latency,
            "latency_caveats": list(self.latency_caveats),
            **({"passed": False} if self.parity is None else self.parity.as_dict()),
            "checks": [{"name": check.name, "passed": check.passed, "finding": check.finding} for check in self.checks],
        }


class FileOpener(Protocol):
    """Loads a file in a runtime; `runtime` is its name and version. Every exporter implements it."""

    @property
    def runtime(self) -> str: ...

    def open(self, file: Path) -> Scorer: ...


class FindLayer(Protocol):
    """Finds the first layer of a file whose SQNR on these images is below `least_db`; None if no layer differs.

    Shapes: images [B, C, H, W], or [B, H, W, C] for a file that normalises.
    """

    def __call__(self, file: Path, images: NDArray[Any], least_db: float, /) -> str | None: ...


@dataclass(frozen=True)
class Gate:
    """Compares exported files with `reference`.

    `fp32_file` is a float32 ONNX file of the same model, if there is one: the first differing layer of other files is
    found by comparison with it. `find_module` does the same for the float32 file itself, by comparison with the torch
    modules; it is None without torch.
    """

    reference: Reference
    limits: Mapping[Precision, Limits]
    fp32_file: Path | None = None
    find_module: FindLayer | None = None

    def judge(self, artifact: Artifact, opener: FileOpener, folder: Path, checks: Sequence[GateCheck] = ()) -> Verdict:
        """Run the file on the reference images and combine the result with that of the other `checks`."""
        file, precision = folder / artifact.file, artifact.precision
        verdict = Verdict(artifact, "failed", opener.runtime, size(file), checks=tuple(checks))
        failed = [check.finding for check in checks if check.passed is False]
        try:
            with blamed(opener, "open"):
                parity = measure(opener.open(file), self.reference, precision, self.limits[precision])
        except UnavailableError as error:
            # A failed check counts even if no runtime executes the file.
            outcome: GateOutcome = "failed" if failed else "ungated"
            return replace(verdict, outcome=outcome, reason="; ".join(failed) or f"was not gated: {error}")
        except GateError as error:
            return replace(verdict, reason=f"was refused: {error}")
        failed = [*parity.failures(), *failed]
        if failed:
            reason = "; ".join(failed) + self._first_layer(file, artifact)
            return replace(verdict, parity=parity, reason=reason)
        return replace(verdict, parity=parity, outcome="passed")

    def _first_layer(self, file: Path, artifact: Artifact) -> str:
        """The first layer where an ONNX file differs from the float32 one, or that one from torch; "" if unknown."""
        if artifact.format != "onnx" or self.fp32_file is None:
            return ""
        # The float32 file is itself the reference of the others; it can only be compared with torch.
        find = self.find_module if self.fp32_file.name == file.name else partial(first_difference, self.fp32_file)
        if find is None:
            return ""
        images, least_db = self.reference.images, self.limits[artifact.precision].min_sqnr_db
        first = images.pixels[np.arange(min(LAYER_SEARCH_IMAGES, len(images.pixels)))]
        try:
            layers = (find(file, batch, least_db) for batch in (first, *images.other_sizes))
            layer = next((layer for layer in layers if layer), None)
        except (DistillkitError, ImportError, RuntimeError, ValueError):
            return ""  # the layer is only a hint; an error here must not hide why the file failed
        return f"; the first layer that differs is {layer}" if layer else ""


def size(file: Path) -> int:
    """Size in bytes of a file, or of all files in a folder."""
    files = [file] if file.is_file() else [inner for inner in file.rglob("*") if inner.is_file()]
    return sum(inner.stat().st_size for inner in files)
