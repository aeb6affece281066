"""`bundle.json`, the manifest of a bundle: its schema, and how it is written. Needs neither torch nor onnx."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from distillkit.compute.machine import versions_of
from distillkit.contracts.decoding import Background, Grey16
from distillkit.contracts.exporter import (
    BATCH,
    HEIGHT,
    INPUT,
    WIDTH,
    ExportRequest,
    Fusion,
    Head,
    Precision,
    Provenance,
    output_name,
    side_multiples,
)
from distillkit.contracts.model import Signal
from distillkit.messages.text import command
from distillkit.storage.atomic import sha256, write_json
from distillkit.storage.links import is_link

if TYPE_CHECKING:
    from distillkit.contracts.model import ModelSpec

MANIFEST = "bundle.json"
REJECTED = "rejected"
PARITY = "parity.json"
"""The report of the gate."""
SCHEMA_VERSION: Literal[1] = 1
PROFILE = "profile"
"""Folder with profiles of one machine. It is not part of the bundle, so its files have no digests."""
SOFTWARE = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")


class ManifestPart(BaseModel):
    """Base of all parts of `bundle.json`: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunReference(ManifestPart):
    """The run that trained the student, by name and digests, without any path.

    `checkpoint` is the student of the run: last, best, ema, or a step. Bundles of earlier versions have none.
    """

    run: str | None = None
    checkpoint: str | None = None
    recipe_sha256: str | None = None
    weights_sha256: str | None = None


class StudentCard(ManifestPart):
    """The student: its name and options in the recipe, architecture, parameters and licence.

    `taught_under` are the licences of weights that taught it, where their terms may extend to it.
    """

    model: str
    options: dict[str, Any]
    architecture: str
    parameters: int
    licence: str | None
    taught_under: tuple[str, ...] = ()


class TeacherCard(ManifestPart):
    """A teacher of the run."""

    name: str
    architecture: str | None = None
    licence: str | None = None


class InputCard(ManifestPart):
    """The model input. In `shape`, a string is a dynamic dimension.

    If height and width are dynamic, `multiples` are the numbers that they must be multiples of, and `image_size` is
    the model's own.
    Preprocessing turns an image as its EXIF orientation says, unless `orientation` is "stored", resizes it to
    `image_size` ÷ `crop` with `interpolation` and centre-crops it to `image_size`, [height, width]. Bundles of earlier
    versions have no `orientation`, which means "stored". `background` and `grey16` are those of the recipe's `[data]`;
    bundles of earlier versions drop an alpha channel and refuse 16-bit grey.
    """

    name: str
    dtype: Literal["float32", "uint8"]
    layout: Literal["NCHW", "NHWC"]
    shape: tuple[int | str, ...]
    image_size: tuple[int, int]
    multiples: tuple[int, int] | None
    color: Literal["L", "RGB"] | None
    scale: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop: float
    orientation: Literal["exif", "stored"] = "stored"
    background: Background = "none"
    grey16: Grey16 = "refuse"


class OutputCard(ManifestPart):
    """The model output."""

    name: str
    dtype: Literal["float32"]
    shape: tuple[int | str, ...]
    kind: Literal["logits", "probabilities", "embedding"]
    head: Head | None
    fusion: Fusion | None
    meaning: str


class ModelFacts(ManifestPart):
    """Description of the model; also stored in the metadata of each exported file if its format has any."""

    schema_version: Literal[1] = SCHEMA_VERSION
    source: RunReference
    student: StudentCard
    teachers: tuple[TeacherCard, ...]
    input: InputCard
    output: OutputCard
    class_names: tuple[str, ...] | None


class ArtifactCard(ManifestPart):
    """One exported file.

    `gate` is "passed" if its outputs were compared with torch's, "ungated" if no available runtime executes it.
    `runtime` is the runtime of the comparison, `reason` why there was no comparison.
    """

    format: str
    file: str
    precision: Precision
    gate: Literal["passed", "ungated"]
    runtime: str | None = None
    reason: str | None = None
    made_with: dict[str, Any]


BUNDLE_PLACEHOLDER = "BUNDLE"
"""Placeholder for the bundle's folder in the command of a pending file."""


class PendingCard(ManifestPart):
    """A requested file that the exporting machine cannot make; `command` makes it on the target.

    The command contains BUNDLE instead of the folder, because the folder on the target is unknown. It is for readers of
    the file; `with_own_commands` replaces it before it is shown.
    """

    format: str
    precision: Precision
    reason: str
    command: str
    options: dict[str, Any]

    def command_for(self, folder: Path) -> str:
        """The command with `folder` in place of BUNDLE."""
        return self.command.replace(f" export {BUNDLE_PLACEHOLDER} ", f" {command('export', folder)} ", 1)


class FileCard(ManifestPart):
    """SHA-256 and size of a file, to detect changes."""

    sha256: str
    bytes: int


class Bundle(ModelFacts):
    """The content of `bundle.json`.

    `files` are all files of the folder by relative path, except `bundle.json`, profiles and rejected files.
    """

    opset: int
    artifacts: tuple[ArtifactCard, ...]
    pending: tuple[PendingCard, ...] = ()
    software: dict[str, str]
    files: dict[str, FileCard]


def describe(spec: ModelSpec, request: ExportRequest) -> ModelFacts:
    """Describe a model for its bundle: input, output, classes and provenance."""
    from_ = request.provenance
    return ModelFacts(
        source=RunReference(
            run=from_.run,
            checkpoint=from_.checkpoint,
            recipe_sha256=from_.recipe_sha256,
            weights_sha256=from_.weights_sha256,
        ),
        student=StudentCard(
            model=from_.model or spec.name,
            options=dict(from_.options),
            architecture=spec.architecture,
            parameters=spec.parameters,
            licence=spec.licence,
            taught_under=spec.taught_under,
        ),
        teachers=tuple(TeacherCard.model_validate(dict(teacher)) for teacher in from_.teachers),
        input=_input(spec, request),
        output=_output(spec, request),
        class_names=spec.class_names,
    )


def _input(spec: ModelSpec, request: ExportRequest) -> InputCard:
    channels, size = len(spec.mean), request.image_size or spec.image_size
    sides: tuple[int | str, ...] = (HEIGHT, WIDTH) if request.dynamic_size else size
    scale = "pixels from 0 to 1, then minus mean, then divided by std, per channel"
    return InputCard(
        name=INPUT,
        dtype="uint8" if request.uint8 else "float32",
        layout="NHWC" if request.uint8 else "NCHW",
        shape=(BATCH, *sides, channels) if request.uint8 else (BATCH, channels, *sides),
        image_size=size,
        multiples=side_multiples(spec) if request.dynamic_size else None,
        color="L" if channels == 1 else "RGB" if channels == 3 else None,
        scale="pixels from 0 to 255 as they are; the file subtracts the mean and divides" if request.uint8 else scale,
        mean=spec.mean,
        std=spec.std,
        interpolation=spec.interpolation,
        crop=spec.crop,
        orientation=spec.orientation,
        background=spec.background,
        grey16=spec.grey16,
    )


def _output(spec: ModelSpec, request: ExportRequest) -> OutputCard:
    """Logits or probabilities with their head, or the embedding of a model without a class head."""
    two_heads = Signal.DISTILL_LOGITS in spec.signals
    scores = Signal.LOGITS in spec.signals
    kind: Literal["logits", "probabilities", "embedding"] = (
        "embedding" if not scores else "probabilities" if request.softmax else "logits"
    )
    meanings = {
        "logits": "scores before the softmax; their softmax is the probability of each class",
        "probabilities": "the probability of each class; every row sums to 1",
        "embedding": "the last layer's embedding, to compare images with or to put a classifier on; there is no class "
        "head",
    }
    return OutputCard(
        name=output_name(spec, request),
        dtype="float32",
        shape=(BATCH, spec.classes if scores else spec.width),
        kind=kind,
        head=(request.head if two_heads else "class") if scores else None,
        fusion=request.fusion if two_heads and request.head == "fused" else None,
        meaning=meanings[kind],
    )


def request_of(bundle: Bundle) -> ExportRequest:
    """The export request of a bundle, with what formats need that are made from its ONNX files."""
    source, output = bundle.source, bundle.output
    return ExportRequest(
        head=output.head or "fused",
        fusion=output.fusion or "logits",
        opset=bundle.opset,
        image_size=bundle.input.image_size,
        dynamic_size=HEIGHT in bundle.input.shape,
        softmax=output.kind == "probabilities",
        uint8=bundle.input.dtype == "uint8",
        provenance=Provenance(
            model=bundle.student.model,
            options=bundle.student.options,
            run=source.run,
            checkpoint=source.checkpoint,
            recipe_sha256=source.recipe_sha256,
            weights_sha256=source.weights_sha256,
            teachers=tuple(teacher.model_dump() for teacher in bundle.teachers),
        ),
    )


def card(facts: ModelFacts) -> dict[str, str]:
    """`facts` as JSON strings, for the metadata of a file."""
    return {key: json.dumps(value, ensure_ascii=False) for key, value in facts.model_dump(mode="json").items()}


def write_manifest(  # noqa: PLR0913 - the contents of one file
    folder: Path,
    facts: ModelFacts,
    opset: int,
    artifacts: Sequence[ArtifactCard],
    pending: Sequence[PendingCard] = (),
    *,
    software: Mapping[str, str] | None = None,
    foreign: Collection[Path] = (),
) -> Bundle:
    """Write `bundle.json`, with software versions and the digest of every file of the bundle; call it last.

    Files in `rejected/` and `profile/` are not part of the bundle, nor are `foreign` files, which the user added.
    """
    manifest = folder / MANIFEST
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and not is_link(file)
        and file not in {manifest, *foreign}
        and file.relative_to(folder).parts[0] not in {REJECTED, PROFILE}
    )
    bundle = Bundle(
        **{name: getattr(facts, name) for name in ModelFacts.model_fields},
        opset=opset,
        artifacts=tuple(artifacts),
        pending=tuple(pending),
        software=dict(software or versions()),
        files={
            file.relative_to(folder).as_posix(): FileCard(sha256=sha256(file), bytes=file.stat().st_size)
            for file in files
        },
    )
    # Last: a folder without bundle.json counts as an unfinished export.
    write_json(manifest, bundle.model_dump(mode="json"))
    return bundle


def versions() -> Mapping[str, str]:
    """Versions of Python, distillkit and the installed packages that are used in an export."""
    return versions_of(SOFTWARE)
