"""What an exporter and the export stage promise each other.

Nothing here imports torch at run time, so that the half that runs on the target machine needs none.
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
"""How every exported file calls its input, and the dimensions that are or may be dynamic."""


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """The (height, width) that somebody typed, "224" or "192x256"; None where nothing was.

    Raises: UserError for anything else.

    >>> parse_image_size("224"), parse_image_size("192x256")
    ((224, 224), (192, 256))
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise UserError(f"'{text}' is no image size; give a number of pixels such as 224, or HEIGHTxWIDTH")
    return int(sides[0]), int(sides[-1])


def output_name(spec: ModelSpec, request: ExportRequest) -> str:
    """How a file calls its output: logits, probabilities or, of a model without a class head, the embedding."""
    if Signal.LOGITS not in spec.signals:
        return "embedding"
    return "probabilities" if request.softmax else "logits"


def side_multiples(spec: ModelSpec) -> tuple[int, int]:
    """What height and width must be multiples of where they are dynamic: the patch of a ViT, else one pixel."""
    if spec.kind != "vit" or not spec.grids:
        return 1, 1
    (height, width), (rows, columns) = spec.image_size, spec.grid
    return height // rows, width // columns


Scorer: TypeAlias = "Callable[[NDArray[Any]], NDArray[np.float32]]"
"""Images as the file takes them, [B, C, H, W] normalised or [B, H, W, C] uint8, to scores [B, K], or to the embedding
[B, D] of a model without a class head."""

ReportProgress: TypeAlias = Callable[[str, int, int], None]
"""Hears what goes on, how many of its steps are done, and how many there are."""


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from, as it is written beside and into the exported file. Holds no paths, only names.

    `model` and `options` are the student as its recipe names it. `run` is the name of the run directory,
    `recipe_sha256` the digest of its recipe and `weights_sha256` that of its weight file. Each of `teachers` has `name`
    and, where known, `architecture` and `licence`.
    """

    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None
    recipe_sha256: str | None = None
    weights_sha256: str | None = None
    teachers: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class ExportRequest:
    """What the exported graph shall be, whatever the format.

    `head` and `fusion` say which answer of a student with two heads becomes the output of the file; a student with
    one head answers with that. `opset` is the ONNX operator set, for formats that are ONNX or are made from it.
    `image_size` is (height, width), the model's own where it is None; with `dynamic_size` the file takes images of any
    size. With `softmax` it answers with probabilities. With `uint8` it takes pixels from 0 to 255 in NHWC and
    normalises them itself.
    Raises: UserError for a value that is not one of these.
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
            raise UserError(f"opset {self.opset} cannot be written; choose one from {OPSETS[0]} to {OPSETS[-1]}")


@dataclass(frozen=True)
class ExportSource:
    """What an exporter may start from.

    `model` is the student in memory, or None where the export goes on from a bundle. `onnx` are the ONNX files that are
    there already, by precision: all formats but ONNX may rely on the ones that were asked for. `card` describes the
    model, name by name, as JSON text; it goes into a file where the format has room. `images` are real ones, as the
    file takes them, for precisions that need to know the ranges of activations; `images_from` says where they are from.
    An exporter that takes long calls `progress` with what it is doing, the steps of that which are done, and all of
    them.
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
    """One exported file: its format, its path relative to the folder that was exported to, and its arithmetic.

    `made_with` says how: the tool and its settings, the calibrator and its images, what was kept in float32.
    `companions` are further files that belong to it, and go where it goes.
    """

    format: str
    file: str
    precision: Precision = "fp32"
    made_with: Mapping[str, Any] = field(default_factory=dict)
    companions: tuple[str, ...] = ()


class Exporter(Protocol):
    """One format. The stage around it makes the folder, gates every file on real images and writes the manifest.

    A factory also has `Options`, a pydantic model of the settings that a user may give.
    """

    precisions: tuple[Precision, ...]

    @property
    def runtime(self) -> str:
        """The name and version of the runtime in which `open` loads the file."""

    def check(self) -> None:
        """Refuse early: MissingExtraError for an absent package, UnavailableError for an absent device.

        Of all formats but ONNX the stage then keeps what the others wrote, and notes in the manifest what is pending
        and the command that makes it on the target.
        """

    def write(self, source: ExportSource, directory: Path, precision: Precision) -> Artifact:
        """Write the file into the existing `directory`. Must not change the source.

        Raises: UnavailableError where the source cannot be written in this format and precision.
        """

    def precision_of(self, file: Path) -> Precision:
        """The precision that a written file really has, read from the file."""

    def open(self, file: Path) -> Scorer:
        """Load what `write` wrote, in the runtime that will serve it.

        Raises: UnavailableError where no runtime of this machine can execute it; GateError where it is broken.
        """


@runtime_checkable
class HasFlags(Protocol):
    """An exporter that the command line asks for by flags of its own, rather than by --format and --set."""

    def flags(self) -> Sequence[str]:
        """The flags, with the options that were given: ("--trt", "--batch", "1:8:64"); without those of precisions."""


class ExporterFactory(Protocol):
    """What `PluginSpec.factory` of an exporter names: a class, called with its checked options."""

    Options: type[BaseModel]

    def __call__(self, options: Any) -> Exporter: ...
