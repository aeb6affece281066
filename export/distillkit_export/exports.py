"""The export stage: write a file, gate it against torch on images, describe it, and publish the folder whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.contracts import Model
from distillkit.exporting import Artifact, Exporter, ExportRequest, ExportSource, Fusion, Head
from distillkit.files import write_json
from distillkit_export.bundle import SCHEMA_VERSION, ArtifactCard, Bundle, card, describe, software, write_manifest
from distillkit_export.folder import published, require_free
from distillkit_export.onnx_exporter import OnnxExporter
from distillkit_export.parity import Parity, measure
from distillkit_export.pictures import Pictures, as_asked, given_pictures, photographs

if TYPE_CHECKING:
    from distillkit.hooks import Plugins

PARITY = "parity.json"
LARGEST_RELATIVE_DIFFERENCE = 1e-4
"""Forty timm families differ from torch by at most 4.4e-6 of their largest score, at batches of 1 and 3; the rest is
room for other CPUs, and still far below what can change an answer."""


@dataclass(frozen=True)
class ExportResult:
    """An export that passed its gate: where it lies, what it is, how well it agrees, and its manifest."""

    directory: Path
    artifact: Artifact
    parity: Parity
    bundle: Bundle

    @property
    def manifest(self) -> dict[str, Any]:
        """`bundle.json` as data."""
        return self.bundle.model_dump(mode="json")

    def lines(self) -> list[str]:
        """What a terminal shows."""
        file = self.directory / self.artifact.file
        output = self.bundle.output
        one = f"{output.head} head" if output.head else "embedding"
        answer = f"both heads fused by {output.fusion}" if output.fusion else one
        shape = " x ".join(str(size) for size in self.bundle.input.shape)
        size = f"{self.bundle.files[self.artifact.file].bytes / 1e6:.3g} MB"
        opset = f"opset {self.bundle.opset}"
        return [
            f"{file}: {size}, {self.artifact.precision}, {opset}, {shape} images, {answer}",
            *self.parity.lines(),
        ]

    def as_dict(self) -> dict[str, Any]:
        """The same as data, for --json."""
        return {"directory": str(self.directory), "manifest": self.manifest, "parity": self.parity.as_dict()}


def export(  # noqa: PLR0913 - one keyword per flag of the verb
    target: str,
    out: Path | None = None,
    *,
    plugins: Plugins,
    head: Head | None = None,
    fusion: Fusion | None = None,
    opset: int = 20,
    image_size: tuple[int, int] | None = None,
    dynamic_size: bool = False,
    softmax: bool = False,
    uint8: bool = False,
    format: str = "onnx",  # noqa: A002 - the flag's name
    weights: str | None = None,
    force: bool = False,
) -> ExportResult:
    """Export a run directory, a student or checkpoint inside one, or a model by name ("timm:resnet18").

    Without `out` a run is exported into its own `export/`, its best student and the like into `export-best/` beside
    it, a model by name into `exports/<name>`. Without `head` and `fusion` a saved student answers as its run
    evaluated it. `image_size`, `dynamic_size`, `softmax` and `uint8` are
    those of `ExportRequest`. `weights` is for a model by name: a file, "pretrained" or "none".
    Raises: before any weight is loaded, MissingExtraError, UnknownPluginError, or RunDirectoryError for a folder that
    is not free; afterwards as `export_model`.
    """
    exporter: Exporter = plugins.factory("exporter", format)(plugins.options("exporter", format, {}))
    exporter.check()
    request = ExportRequest(head or "fused", fusion or "logits", opset, image_size, dynamic_size, softmax, uint8)
    from distillkit.models.heads import Answer, check_head
    from distillkit_export.targets import default_folder, load_target

    directory = out or default_folder(target)
    require_free(directory, force=force)
    found = load_target(target, plugins, weights, image_size)
    check_head(head, found.model.spec, Answer(idle=found.idle_heads), subject=f"'{target}'")
    request = replace(request, head=head or found.head, fusion=fusion or found.fusion, provenance=found.provenance)
    return export_model(exporter, found.model, directory, request, found.pictures, force=force)


def export_onnx(
    model: Model,
    directory: Path,
    request: ExportRequest | None = None,
    images: Iterable[Any] | None = None,
    *,
    force: bool = False,
) -> ExportResult:
    """Export a model at hand to ONNX.

    `images` serve the parity check: tensors or arrays [C, H, W] or [b, C, H, W], normalised with the model's mean and
    std; two photographs stand in where there are none, and the result says that it is weak.
    Raises: as `export_model`, MissingExtraError, and ShapeError for images that the model does not take.
    """
    exporter = OnnxExporter(OnnxExporter.Options())
    exporter.check()
    request = request or ExportRequest()
    spec = replace(model.spec, image_size=request.image_size or model.spec.image_size)
    pictures = photographs(spec, "no images were given") if images is None else given_pictures(images, spec)
    return export_model(exporter, model, directory, request, pictures, force=force)


def export_model(
    exporter: Exporter,
    model: Model,
    directory: Path,
    request: ExportRequest,
    pictures: Pictures,
    *,
    force: bool = False,
) -> ExportResult:
    """Write `model` with `exporter` into `directory`, which appears whole or not at all.

    `pictures` are normalised and of the size that is asked for.
    Raises: RunDirectoryError for a folder that is not free; UserError for an image size that the model cannot see, or
    for probabilities of a model without a class head; UnavailableError where the model cannot be written;
    GateError where the file disagrees with torch: the files are then kept in `rejected/`.
    """
    from distillkit_export.image_sizes import at_image_size
    from distillkit_export.torch_graph import torch_scorer

    require_free(directory, force=force)
    model = at_image_size(model, request.image_size)
    pictures = as_asked(pictures, model.spec, request)
    facts = describe(model.spec, request)
    with published(directory) as building:
        artifact = exporter.write(ExportSource(request, model, card=card(facts)), building, "fp32")
        exported = exporter.open(building / artifact.file)
        parity = measure(torch_scorer(model, request), exported, pictures, LARGEST_RELATIVE_DIFFERENCE)
        report = {"runtime": exporter.runtime, **parity.as_dict()}
        reference = f"torch {software()['torch']}, eager, float32, CPU"
        write_json(
            building / PARITY,
            {"schema_version": SCHEMA_VERSION, "reference": reference, "files": {artifact.file: report}},
        )
        parity.require(artifact.file)
        described = ArtifactCard(gate="passed", **asdict(artifact))
        bundle = write_manifest(building, facts, request.opset, [described])
    return ExportResult(directory, artifact, parity, bundle)
