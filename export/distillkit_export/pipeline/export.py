"""The export: write files, gate each against torch on images, describe them, and publish the folder whole."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.contracts.exporter import ExportRequest, ExportSource, Head, Precision
from distillkit.contracts.model import Model, ModelSpec, Signal
from distillkit.errors import UserError
from distillkit.plugin.extras import require
from distillkit.plugin.registry import installed_plugins
from distillkit_export.bundle.manifest import MANIFEST, card, describe, versions, write_manifest
from distillkit_export.bundle.predict_script import write_predict_script
from distillkit_export.bundle.publish import published, require_free
from distillkit_export.export_options import ExportOptions
from distillkit_export.gate.accuracy_at_size import loss_at_size
from distillkit_export.gate.gate import Gate
from distillkit_export.gate.limits import TOLERANCES
from distillkit_export.gate.parity import evidence
from distillkit_export.gate.report import write_report
from distillkit_export.gate.samples import SAMPLES, write_samples
from distillkit_export.images.gate_images import ExportImages, as_file_input, given_pictures, stand_in
from distillkit_export.onnx.exporter import FILES, OnnxExporter
from distillkit_export.pipeline.extend_bundle import extend_bundle
from distillkit_export.pipeline.formats import Format, onnx_format, other_formats
from distillkit_export.pipeline.result import ExportResult
from distillkit_export.pipeline.stage import Stage

if TYPE_CHECKING:
    from distillkit.plugin.registry import PluginRegistry
    from distillkit_export.pipeline.target import ExportTarget


def export(
    target: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    options: ExportOptions | None = None,
    *,
    plugins: PluginRegistry | None = None,
) -> ExportResult:
    """Export a student as a bundle: what `distillkit export` does, and what it calls.

    `target` is a run directory, a student or checkpoint inside one, a model by name ("timm:resnet18"), or a bundle,
    to which formats are added where it lies. Without `out` a run is exported into its own `export/`, its best student
    and the like into `export-best/` beside it, a model by name into `exports/<name>`. `plugins` are those that are
    installed, unless others are given. Files that failed their gate or are pending raise nothing here:
    `ExportResult.require` does.
    Raises: before any weight is loaded, MissingExtraError, UnknownPluginError, or RunDirectoryError for a folder that
    is not free; afterwards as `export_model`; of a bundle as `extend_bundle`.

    >>> from distillkit_export import ExportOptions, export
    >>> result = export("runs/digits", options=ExportOptions(fp16=True, int8=True))  # doctest: +SKIP
    >>> result.directory, result.parity.max_relative  # doctest: +SKIP
    (PosixPath('runs/digits/export'), 6.1e-07)
    """
    target, options, plugins = os.fspath(target), options or ExportOptions(), plugins or installed_plugins()
    out = None if out is None else Path(out)
    if (Path(target) / MANIFEST).is_file():
        return extend_bundle(target, options, plugins=plugins, out=out)
    require("torch", "timm", what="distillkit export")
    from distillkit.models.heads import Answer, check_head
    from distillkit_export.pipeline.target import default_folder, load_target

    onnx, others = onnx_format(options, plugins), other_formats(options, plugins)
    onnx.exporter.check()
    directory = out or default_folder(target)
    require_free(directory, force=options.force)
    found = load_target(target, plugins, options)
    check_head(options.head, found.model.spec, Answer(idle=found.idle_heads), subject=f"'{target}'")
    if options.fusion is not None:
        _require_two_heads(found.model.spec, found.request.head, target)
    return export_model([onnx, *others], found, directory, options)


def export_onnx(
    model: Model,
    directory: Path,
    request: ExportRequest | None = None,
    images: Iterable[Any] | None = None,
    options: ExportOptions | None = None,
) -> ExportResult:
    """Export a model at hand to ONNX.

    `images` serve the gate and the calibration: tensors or arrays [C, H, W] or [b, C, H, W], normalised with the
    model's mean and std; two photographs stand in where there are none, and the result says that it is weak.
    Raises: as `export_model`, MissingExtraError, and ShapeError for images that the model does not take.
    """
    from distillkit_export.pipeline.target import ExportTarget

    exporter = OnnxExporter(OnnxExporter.Options())
    exporter.check()
    request = request or ExportRequest()
    spec = replace(model.spec, image_size=request.image_size or model.spec.image_size)
    if images is None:
        found = stand_in(spec, "no images were given")
    else:
        pictures = given_pictures(images, spec)
        found = ExportImages(pictures, pictures)
    target = ExportTarget(model, request, lambda: found)
    return export_model([Format("onnx", exporter, exporter.options)], target, directory, options or ExportOptions())


def export_model(
    formats: Sequence[Format], target: ExportTarget, directory: Path, options: ExportOptions
) -> ExportResult:
    """Write a model in all `formats`, of which the first is ONNX, into `directory`, which appears whole or not at all.

    Files that fail their gate lie in `rejected/`, and those that nothing here executes are ungated:
    `ExportResult.require` says so.
    Raises: RunDirectoryError for a folder that is not free; UserError for an image size that the model cannot see, for
    probabilities of a model without a class head, or for a precision that real images are needed for where there are
    none; UnavailableError where the model cannot be written; GateError where `model.onnx` disagrees with torch: the
    files are then kept in `rejected/`, and an earlier export stays.
    """
    from distillkit_export.from_torch.graph import torch_scorer
    from distillkit_export.from_torch.image_size import at_image_size
    from distillkit_export.gate.first_torch_module import first_module

    require_free(directory, force=options.force)
    request, images = target.request, target.find_images()
    model = at_image_size(target.model, request.image_size)
    facts = describe(model.spec, request)
    pictures = as_file_input(images.gate, model.spec, request)
    classes = facts.output.kind != "embedding"
    reference = f"torch {versions()['torch']}, eager, float32, CPU"
    _require_real(options, images)
    against = evidence(torch_scorer(model, request), pictures, reference, classes=classes)
    against = replace(against, note=loss_at_size(against, model.spec.image_size, target.reached))
    onnx, *others = formats
    with published(directory) as building:
        files: dict[Precision, Path] = {}
        calibration = as_file_input(images.calibration or images.gate, model.spec, replace(request, dynamic_size=False))
        source = ExportSource(
            request,
            model,
            onnx=files,
            card=card(facts),
            images=calibration.pixels[np.arange(len(calibration.pixels))] if options.precisions else None,
            images_from=calibration.source,
            progress=options.progress,
        )
        limits = TOLERANCES[options.tolerance]
        gate = Gate(against, limits, building / FILES["fp32"], partial(first_module, model, request))
        stage = Stage(building, source, gate, files)
        try:
            stage.make_onnx(onnx, options.precisions)
            if options.compared is not None:
                stage.compare_with(onnx, options.compared)
            for form in others:
                for precision in options.precisions or ("fp32",):
                    stage.make(form, precision)
            stage.finish()
        finally:
            write_report(building, stage.verdicts, against)
        write_samples(building / SAMPLES, against)
        write_predict_script(building, facts)
        bundle = write_manifest(building, facts, request.opset, stage.cards(), stage.pending)
    return ExportResult(directory, tuple(stage.verdicts), tuple(stage.pending), against, bundle)


def _require_two_heads(spec: ModelSpec, head: Head, target: str) -> None:
    """Refuse a fusion for a model with one head."""
    if head == "fused" and Signal.DISTILL_LOGITS in spec.signals:
        return
    alone = "distillation head" if head == "distill" else "class head"
    answers = f"its {alone} alone" if Signal.LOGITS in spec.signals else "its embedding"
    raise UserError(f"--fusion is about two heads, and '{target}' answers with {answers}; leave out --fusion")


def _require_real(options: ExportOptions, images: ExportImages) -> None:
    """Ranges of activations are taken from real images, never from two photographs or noise."""
    needy = [precision for precision in options.precisions if precision in {"int8", "fp8"}]
    if needy and images.calibration is None:
        there = images.gate.source
        raise UserError(
            f"--{needy[0]} needs real images to calibrate with, and there are only {there}; give --data DIR"
        )
