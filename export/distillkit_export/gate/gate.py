"""The gate: an exported file must be what was asked for, and say what the model says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from distillkit.errors import DistillkitError, GateError, UnavailableError
from distillkit.plugin.error_attribution import blamed
from distillkit_export.gate.parity import Evidence, Parity, measure
from distillkit_export.onnx.first_difference import first_difference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from distillkit.contracts.exporter import Artifact, Precision, Scorer
    from distillkit_export.gate.checks import GateCheck
    from distillkit_export.gate.limits import Limits

LOOKED_AT = 8
"""How many images the search for the first layer that differs looks at."""

GateOutcome = Literal["passed", "ungated", "failed"]


@dataclass(frozen=True)
class Verdict:
    """What became of one file: its figures, what else was checked, and why it is not passed.

    `parity` is None where nothing at hand executes the file. `reason` is the end of a sentence that the file's name
    begins. `kept` is False for a file that was made for comparison alone. `relative_latency` is the time for one image
    here over that of the float32 file.
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

    @property
    def failure(self) -> str:
        """A sentence about a file that failed or is not gated."""
        return f"{self.artifact.file} {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """What parity.json holds of this file."""
        return {
            "gate": self.outcome,
            "reason": self.reason or None,
            "precision": self.artifact.precision,
            "runtime": self.runtime,
            "bytes": self.bytes,
            "kept": self.kept,
            "relative_latency": self.relative_latency,
            **({"passed": False} if self.parity is None else self.parity.as_dict()),
            "checks": [{"name": check.name, "passed": check.passed, "finding": check.finding} for check in self.checks],
        }


class FileOpener(Protocol):
    """What loads a file, and the name and version of the runtime that then executes it. Every exporter is one."""

    @property
    def runtime(self) -> str: ...

    def open(self, file: Path) -> Scorer: ...


class FindsLayer(Protocol):
    """Names the first layer of a file that differs on these images by more than is allowed, None where none does."""

    def __call__(self, file: Path, images: NDArray[Any], least_db: float, /) -> str | None: ...


@dataclass(frozen=True)
class Gate:
    """What files are held against. `reference` is a float32 ONNX file of the same model, where there is one.

    `modules` finds the first of torch's modules that the float32 file itself differs from, where torch is at hand.
    """

    against: Evidence
    limits: Mapping[Precision, Limits]
    reference: Path | None = None
    modules: FindsLayer | None = None

    def judge(self, artifact: Artifact, opener: FileOpener, folder: Path, checks: Sequence[GateCheck] = ()) -> Verdict:
        """Ask the file the images, and look at what else was checked."""
        file, precision = folder / artifact.file, artifact.precision
        verdict = Verdict(artifact, "failed", opener.runtime, size(file), checks=tuple(checks))
        failed = [check.finding for check in checks if check.passed is False]
        try:
            with blamed(opener, "open"):
                parity = measure(opener.open(file), self.against, precision, self.limits[precision])
        except UnavailableError as error:
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
        """Where an ONNX file first leaves the float32 graph, and that graph the modules of torch."""
        if artifact.format != "onnx" or self.reference is None:
            return ""
        find = self.modules if self.reference.name == file.name else partial(first_difference, self.reference)
        if find is None:
            return ""
        pictures, least_db = self.against.pictures, self.limits[artifact.precision].min_sqnr_db
        first = pictures.pixels[np.arange(min(LOOKED_AT, len(pictures.pixels)))]
        try:
            layers = (find(file, images, least_db) for images in (first, *pictures.others))
            layer = next((layer for layer in layers if layer), None)
        except (DistillkitError, ImportError, RuntimeError, ValueError):
            return ""  # the figures above are what counts; where they come from is a help
        return f"; the first layer that differs is {layer}" if layer else ""


def size(file: Path) -> int:
    """The bytes of a file, or of all files of a folder."""
    files = [file] if file.is_file() else [inner for inner in file.rglob("*") if inner.is_file()]
    return sum(inner.stat().st_size for inner in files)
