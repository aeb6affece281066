"""The export stage: write files, gate each against torch on images, describe them, and publish the folder whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.contracts.exporter import (
    Artifact,
    ExportRequest,
    ExportSource,
    Fusion,
    Head,
    Precision,
)
from distillkit.contracts.model import Model, ModelSpec, Signal
from distillkit.errors import GateError, UnavailableError, UserError
from distillkit.messages.text import counted
from distillkit_export.bundle.manifest import (
    REJECTED,
    Bundle,
    PendingCard,
    card,
    describe,
    versions,
    write_manifest,
)
from distillkit_export.bundle.predict_script import write_predict_script
from distillkit_export.bundle.publish import published, require_free
from distillkit_export.gate.accuracy_at_size import Reached, loss_at_size
from distillkit_export.gate.gate import Gate, Verdict
from distillkit_export.gate.parity import Evidence, Parity, evidence
from distillkit_export.gate.report import lines, write_report
from distillkit_export.gate.samples import SAMPLES, write_samples
from distillkit_export.images.gate_images import ExportImages, as_asked, given_pictures, stand_in
from distillkit_export.onnx.exporter import BF16_OPSET, FILES, OnnxExporter
from distillkit_export.pipeline.options import ExportOptions
from distillkit_export.pipeline.stage import Format, Stage

if TYPE_CHECKING:
    from distillkit.plugin.registry import PluginRegistry

OPSET = 20


@dataclass(frozen=True)
class ExportResult:
    """An export: where it lies, what became of each file, what is pending, and its manifest."""

    directory: Path
    verdicts: tuple[Verdict, ...]
    pending: tuple[PendingCard, ...]
    against: Evidence
    bundle: Bundle

    @property
    def artifact(self) -> Artifact:
        """The first file, `model.onnx`."""
        return self.verdicts[0].artifact

    @property
    def parity(self) -> Parity:
        """How well the first file agrees."""
        parity = self.verdicts[0].parity
        if parity is None:
            raise UnavailableError(self.verdicts[0].failure)
        return parity

    @property
    def manifest(self) -> dict[str, Any]:
        """`bundle.json` as data."""
        return self.bundle.model_dump(mode="json")

    def lines(self) -> list[str]:
        """What a terminal shows."""
        output = self.bundle.output
        one = f"{output.head} head" if output.head else "embedding"
        answer = f"both heads fused by {output.fusion}" if output.fusion else one
        shape = " x ".join(str(size) for size in self.bundle.input.shape)
        count = counted(len(self.bundle.artifacts), "file")
        heading = f"{self.directory}: {count}, opset {self.bundle.opset}, {shape} images, {answer}"
        return [heading, *(lines(self.verdicts, self.against) if self.verdicts else ())]

    def as_dict(self) -> dict[str, Any]:
        """The same as data, for --json."""
        return {
            "directory": str(self.directory),
            "manifest": self.manifest,
            "parity": {verdict.artifact.file: verdict.as_dict() for verdict in self.verdicts},
        }

    def require(self) -> None:
        """Raise for what is not as it was asked for; what passed is there all the same.

        Raises: GateError for files that failed; UnavailableError for files that could not be gated or made here.
        """
        failed = [each.failure for each in self.verdicts if each.outcome == "failed" and each.kept]
        sentences = [*self._ungated(), *self._pending()]
        if failed:
            where = f"kept in '{self.directory / REJECTED}'; what passed is in '{self.directory}'"
            raise GateError("; ".join([*failed, where, *sentences]))
        if sentences:
            raise UnavailableError("; ".join(sentences))

    def _ungated(self) -> list[str]:
        ungated = [each.failure for each in self.verdicts if each.outcome == "ungated" and each.kept]
        return [*ungated, f"on a machine that executes it run: distillkit verify {self.directory}"] if ungated else []

    def _pending(self) -> list[str]:
        return [
            f"{each.format} {each.precision} is pending: {each.reason}; on the target run: "
            f"{each.command_for(self.directory)}"
            for each in self.pending
        ]


def export(  # noqa: PLR0913 - one keyword per flag of the verb
    target: str,
    out: Path | None = None,
    asked: ExportOptions | None = None,
    *,
    plugins: PluginRegistry,
    head: Head | None = None,
    fusion: Fusion | None = None,
    opset: int | None = None,
    image_size: tuple[int, int] | None = None,
    dynamic_size: bool = False,
    softmax: bool = False,
    uint8: bool = False,
    weights: str | None = None,
    force: bool = False,
) -> ExportResult:
    """Export a run directory, a student or checkpoint inside one, or a model by name ("timm:resnet18").

    Without `out` a run is exported into its own `export/`, its best student and the like into `export-best/` beside
    it, a model by name into `exports/<name>`. Without `head` and `fusion` a saved student answers as its run
    evaluated it. `opset` is 20, or 22 where bf16 is asked for. `image_size`, `dynamic_size`, `softmax` and `uint8` are
    those of `ExportRequest`. `weights` is for a model by name: a file, "pretrained" or "none".
    Raises: before any weight is loaded, MissingExtraError, UnknownPluginError, or RunDirectoryError for a folder that
    is not free; afterwards as `export_model`.
    """
    asked = asked or ExportOptions()
    onnx, others = asked.onnx(plugins), asked.others(plugins)
    onnx.exporter.check()
    opset = opset or (BF16_OPSET if "bf16" in asked.precisions else OPSET)
    request = ExportRequest(head or "fused", fusion or "logits", opset, image_size, dynamic_size, softmax, uint8)
    from distillkit.models.heads import Answer, check_head
    from distillkit_export.pipeline.target import default_folder, load_target

    directory = out or default_folder(target)
    require_free(directory, force=force)
    found = load_target(target, plugins, weights, image_size)
    check_head(head, found.model.spec, Answer(idle=found.idle_heads), subject=f"'{target}'")
    if fusion is not None:
        _require_two_heads(found.model.spec, head or found.head, target)
    request = replace(request, head=head or found.head, fusion=fusion or found.fusion, provenance=found.provenance)
    images = found.find_images(asked.images)
    forms = [onnx, *others]
    return export_model(forms, found.model, directory, request, images, asked, reached=found.reached, force=force)


def export_onnx(
    model: Model,
    directory: Path,
    request: ExportRequest | None = None,
    images: Iterable[Any] | None = None,
    precisions: Sequence[Precision] = (),
    *,
    force: bool = False,
) -> ExportResult:
    """Export a model at hand to ONNX.

    `images` serve the gate and the calibration: tensors or arrays [C, H, W] or [b, C, H, W], normalised with the
    model's mean and std; two photographs stand in where there are none, and the result says that it is weak.
    Raises: as `export_model`, MissingExtraError, and ShapeError for images that the model does not take.
    """
    options = OnnxExporter.Options()
    exporter = OnnxExporter(options)
    exporter.check()
    request = request or ExportRequest()
    spec = replace(model.spec, image_size=request.image_size or model.spec.image_size)
    if images is None:
        found = stand_in(spec, "no images were given")
    else:
        pictures = given_pictures(images, spec)
        found = ExportImages(pictures, pictures)
    asked = ExportOptions(precisions=tuple(precisions))
    return export_model([Format("onnx", exporter, options)], model, directory, request, found, asked, force=force)


def export_model(  # noqa: PLR0913 - what is exported, how, where to, and what it is held against
    formats: Sequence[Format],
    model: Model,
    directory: Path,
    request: ExportRequest,
    images: ExportImages,
    asked: ExportOptions | None = None,
    *,
    reached: Reached | None = None,
    force: bool = False,
) -> ExportResult:
    """Write `model` in all `formats`, of which the first is ONNX, into `directory`, which appears whole or not at all.

    `images` are normalised and of the size that is asked for. `reached` is what the model reaches at its own size,
    beside which a loss at another is said. Files that fail their gate lie in `rejected/`, and those
    that nothing here executes are ungated: `ExportResult.require` says so.
    Raises: RunDirectoryError for a folder that is not free; UserError for an image size that the model cannot see, for
    probabilities of a model without a class head, or for a precision that real images are needed for where there are
    none; UnavailableError where the model cannot be written; GateError where `model.onnx` disagrees with torch: the
    files are then kept in `rejected/`, and an earlier export stays.
    """
    from distillkit_export.from_torch.graph import torch_scorer
    from distillkit_export.from_torch.image_size import at_image_size
    from distillkit_export.gate.first_torch_module import first_module

    asked = asked or ExportOptions()
    require_free(directory, force=force)
    model = at_image_size(model, request.image_size)
    facts = describe(model.spec, request)
    pictures = as_asked(images.gate, model.spec, request)
    classes = facts.output.kind != "embedding"
    reference = f"torch {versions()['torch']}, eager, float32, CPU"
    _require_real(asked, images)
    against = evidence(torch_scorer(model, request), pictures, reference, classes=classes)
    against = replace(against, note=loss_at_size(against, model.spec.image_size, reached))
    onnx, *others = formats
    with published(directory) as building:
        files: dict[Precision, Path] = {}
        calibration = as_asked(images.calibration or images.gate, model.spec, replace(request, dynamic_size=False))
        source = ExportSource(
            request,
            model,
            onnx=files,
            card=card(facts),
            images=calibration.pixels[np.arange(len(calibration.pixels))] if asked.precisions else None,
            images_from=calibration.source,
            progress=asked.progress,
        )
        gate = Gate(against, asked.limits, building / FILES["fp32"], partial(first_module, model, request))
        stage = Stage(building, source, gate, files)
        try:
            stage.make_onnx(onnx, asked.precisions)
            if asked.compared is not None:
                stage.compare_with(onnx, asked.compared)
            for form in others:
                for precision in asked.precisions or ("fp32",):
                    stage.make(form, precision)
            stage.finish()
        finally:
            write_report(building, stage.verdicts, against)
        write_samples(building / SAMPLES, against)
        write_predict_script(building, facts)
        bundle = write_manifest(building, facts, request.opset, stage.cards(), stage.pending)
    return ExportResult(directory, tuple(stage.verdicts), tuple(stage.pending), against, bundle)


def _require_two_heads(spec: ModelSpec, head: Head, target: str) -> None:
    """A fusion of one head is none."""
    if head == "fused" and Signal.DISTILL_LOGITS in spec.signals:
        return
    alone = "distillation head" if head == "distill" else "class head"
    answers = f"its {alone} alone" if Signal.LOGITS in spec.signals else "its embedding"
    raise UserError(f"--fusion is about two heads, and '{target}' answers with {answers}; leave out --fusion")


def _require_real(asked: ExportOptions, images: ExportImages) -> None:
    """Ranges of activations are taken from real images, never from two photographs or noise."""
    needy = [precision for precision in asked.precisions if precision in {"int8", "fp8"}]
    if needy and images.calibration is None:
        there = images.gate.source
        raise UserError(
            f"--{needy[0]} needs real images to calibrate with, and there are only {there}; give --data DIR"
        )
