"""What an exporter and the export stage promise each other.

Nothing here imports torch at run time, so that the half that runs on the target machine needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

from distillkit.contracts import Signal
from distillkit.errors import UserError
from distillkit.suggestions import unknown_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distillkit.contracts import Model, ModelSpec

Head = Literal["fused", "class", "distill"]
Fusion = Literal["logits", "softmax"]

OPSETS = range(18, 24)
"""The ONNX operator sets that torch's exporter writes and ONNX Runtime reads."""

INPUT, BATCH = "images", "batch"
"""How every exported file calls its input and the dimension that is dynamic."""


def output_name(spec: ModelSpec) -> str:
    """How an exported file calls its output: logits or, of a model without a class head, the last layer's embedding."""
    return "logits" if Signal.LOGITS in spec.signals else "embedding"


Scorer: TypeAlias = "Callable[[NDArray[np.float32]], NDArray[np.float32]]"
"""Images [B, C, H, W], normalised, to scores [B, K], or to the embedding [B, D] of a model without a class head."""


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from, as it is written beside and into the exported file. Holds no paths, only names.

    `model` and `options` are the student as its recipe names it. `run` is the name of the run directory and
    `weights_sha256` the digest of its weight file. Each of `teachers` has `name` and, where known, `licence`.
    """

    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None
    weights_sha256: str | None = None
    teachers: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class ExportRequest:
    """What is asked of an exporter.

    `head` and `fusion` say which answer of a student with two heads becomes the output of the file; a student with
    one head answers with that. `opset` is the ONNX operator set, for formats that are ONNX or are made from it.
    Raises: UserError for a value that is not one of these.
    """

    head: Head = "fused"
    fusion: Fusion = "logits"
    opset: int = 20
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if self.head not in get_args(Head):
            raise UserError(unknown_name("head", self.head, get_args(Head)))
        if self.fusion not in get_args(Fusion):
            raise UserError(unknown_name("fusion", self.fusion, get_args(Fusion)))
        if self.opset not in OPSETS:
            raise UserError(f"opset {self.opset} cannot be written; choose one from {OPSETS[0]} to {OPSETS[-1]}")


@dataclass(frozen=True)
class Artifact:
    """One exported file: its format, its path relative to the folder that was exported to, and its arithmetic."""

    format: str
    file: str
    precision: str = "fp32"


class Exporter(Protocol):
    """One format. The stage around it makes the folder, gates the file on real images and writes the manifest.

    `largest_relative_difference` is the gate: max |exported - torch| / max |torch| over a batch may not exceed it.
    """

    largest_relative_difference: float

    @property
    def runtime(self) -> str:
        """The name and version of the runtime in which `open` loads the file."""

    def check(self) -> None:
        """Refuse early: MissingExtraError for an absent package, UnavailableError for an absent device."""

    def write(self, model: Model, directory: Path, request: ExportRequest, card: Mapping[str, str]) -> Artifact:
        """Write the file into the existing `directory`. Must not change `model`.

        `card` describes the model, name by name, as JSON text; it goes into the file where the format has room.
        Raises: UnavailableError where the model cannot be written in this format.
        """

    def open(self, file: Path) -> Scorer:
        """Load what `write` wrote, in the runtime that will serve it."""


class ExporterFactory(Protocol):
    """What `PluginSpec.factory` of an exporter names: a class, called without arguments."""

    def __call__(self) -> Exporter: ...
