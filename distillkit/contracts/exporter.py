"""Contract between exporters and the export stage.

Does not import torch at run time: the target machine, where part of the export may run, needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from distillkit.contracts.model import Signal
from distillkit.errors import UserError
from distillkit.messages.nearest_name import unknown_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydantic import BaseModel

    from distillkit.contracts.model import Model, ModelSpec

Head = Literal["fused", "class", "distill"]
Fusion = Literal["logits", "softmax"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

OPSETS = range(18, 24)
"""The ONNX operator sets that torch's exporter writes and ONNX Runtime reads."""

INPUT, BATCH, HEIGHT, WIDTH = "images", "batch", "height", "width"
"""Names in every exported file: the input, and the dimensions that are or may be dynamic."""


LARGEST_SIDE = 4_096
"""Most pixels per side: far above any student, and a batch of such images still fits into memory."""


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) in pixels from "224" or "192x256"; None for None.

    Raises: UserError for any other text.

    >>> parse_image_size("224"), parse_image_size("192x256")
    ((224, 224), (192, 256))
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    # isdigit alone also accepts superscript digits, which int() rejects.
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise UserError(f"'{text}' is not an image size; give a number of pixels such as 224, or HEIGHTxWIDTH")
    if any(len(side) > len(str(LARGEST_SIDE)) or int(side) > LARGEST_SIDE for side in sides):
        raise UserError(f"image size {text} is too large; give at most {LARGEST_SIDE:,} pixels per side")
    return int(sides[0]), int(sides[-1])


def output_name(spec: ModelSpec, request: ExportRequest) -> str:
    """Name of the output in the file: logits, probabilities or, for a model without a class head, embedding."""
    if Signal.LOGITS not in spec.signals:
        return "embedding"
    return "probabilities" if request.softmax else "logits"


def side_multiples(spec: ModelSpec) -> tuple[int, int]:
    """Divisors of height and width if they are dynamic, in pixels: the patch size of a ViT, else 1."""
    if spec.kind != "vit" or not spec.grids:
        return 1, 1
    (height, width), (rows, columns) = spec.image_size, spec.grid
    return height // rows, width // columns


Scorer: TypeAlias = "Callable[[NDArray[Any]], NDArray[np.float32]]"
"""Maps the input of the file, [B, C, H, W] normalised or [B, H, W, C] uint8, to scores [B, K], or to the embedding
[B, D] of a model without a class head."""

ReportProgress: TypeAlias = Callable[[str, int, int], None]
"""Progress callback: called with the current activity, its completed steps and its total steps."""


@dataclass(frozen=True)
class Provenance:
    """Origin of a model, written into the exported file and its manifest. Names only, no paths.

    `model` and `options` describe the student as in its recipe. `run` is the name of the run directory, `checkpoint`
    its student: last, best, ema, or the step of a checkpoint. `recipe_sha256` is the digest of its recipe and
    `weights_sha256` that of its weight file. Each of `teachers` has `name` and, if known, `architecture` and `licence`.
    """

    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None
    checkpoint: str | None = None
    recipe_sha256: str | None = None
    weights_sha256: str | None = None
    teachers: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class ExportRequest:
    """Options of the exported graph, for every format.

    `head` and `fusion` select the output for a student with two heads; they have no effect with one head. `opset` is
    the ONNX operator set, for ONNX and formats that are converted from it. `image_size` is (height, width), by default
    the model's; with `dynamic_size` the file accepts any size. With `softmax` the output is probabilities. With `uint8`
    the input is pixels from 0 to 255 in NHWC, and the graph normalises them.
    Raises: UserError for an invalid value.
    """

    head: Head = "fused"
    fusion: Fusion = "logits"
    opset: int = 20
    image_size: tuple[int, int] | None = None
    dynamic_size: bool = False
    softmax: bool = False
    uint8: bool = False
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if self.head not in get_args(Head):
            raise UserError(unknown_name("head", self.head, get_args(Head)))
        if self.fusion not in get_args(Fusion):
            raise UserError(unknown_name("fusion", self.fusion, get_args(Fusion)))
        if self.opset not in OPSETS:
            raise UserError(f"opset {self.opset} is not supported; choose one from {OPSETS[0]} to {OPSETS[-1]}")


@dataclass(frozen=True)
class ExportSource:
    """Input of an exporter.

    `model` is the student in memory, or None if the export starts from a bundle. `onnx` are the ONNX files that already
    exist, by precision; all formats except ONNX can rely on those that the user requested. `card` describes the model
    as names with JSON texts, for formats with room for metadata. `images` are real images in the input format of the
    file, for precisions that are calibrated on the ranges of activations; `images_from` names their source. A slow
    exporter calls `progress` with its current activity, the completed steps and the total.
    """

    request: ExportRequest
    model: Model | None = None
    onnx: Mapping[Precision, Path] = field(default_factory=dict)
    card: Mapping[str, str] = field(default_factory=dict)
    images: NDArray[Any] | None = None
    images_from: str = ""
    progress: ReportProgress | None = None


@dataclass(frozen=True)
class Artifact:
    """One exported file: its format, its path relative to the export folder, and its precision.

    `made_with` records the tool and its settings, the calibrator and its images, and what was kept in float32.
    `companions` are further files that must be copied with it.
    """

    format: str
    file: str
    precision: Precision = "fp32"
    made_with: Mapping[str, Any] = field(default_factory=dict)
    companions: tuple[str, ...] = ()


class Exporter(Protocol):
    """One export format. The export stage creates the folder, checks parity of every file and writes the manifest.

    A factory also has `Options`, a pydantic model of the user's settings.
    """

    precisions: tuple[Precision, ...]

    @property
    def runtime(self) -> str:
        """Name and version of the runtime in which `open` loads the file."""

    def check(self) -> None:
        """Fail before the export starts: MissingExtraError for a missing package, UnavailableError for a device.

        For formats other than ONNX, the stage then keeps the files of the other formats, and records this one in the
        manifest as pending, with the command that writes it on the target machine.
        """

    def write(self, source: ExportSource, directory: Path, precision: Precision) -> Artifact:
        """Write the file into the existing `directory`. Must not change the source.

        Raises: UnavailableError if the source cannot be written in this format and precision.
        """

    def precision_of(self, file: Path) -> Precision:
        """Actual precision of a written file, read from the file."""

    def open(self, file: Path) -> Scorer:
        """Load a written file in the runtime that will serve it.

        Raises: UnavailableError if no runtime on this machine can execute it; GateError if it is broken.
        """


@runtime_checkable
class HasFlags(Protocol):
    """An exporter with command line flags of its own, in place of --format and --set."""

    def flags(self) -> Sequence[str]:
        """The flags with the user's options, without those for precisions: ("--trt", "--batch", "1:8:64")."""


class ExporterFactory(Protocol):
    """The class that `PluginSpec.factory` of an exporter names, called with its checked options."""

    Options: type[BaseModel]

    def __call__(self, options: Any) -> Exporter: ...
