"""`export`: write files, gate each against torch on images, write the manifest, publish the folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.compute.busy_machine import load_average
from distillkit.contracts.exporter import ExportRequest, ExportSource, Head, Precision
from distillkit.contracts.model import Model, ModelSpec, Signal
from distillkit.contracts.student_directory import student_directory
from distillkit.errors import UserError
from distillkit.messages.text import counted
from distillkit.plugin.extras import require
from distillkit.plugin.registry import installed_plugins
from distillkit_export.bundle.manifest import MANIFEST, card, describe, versions, write_manifest
from distillkit_export.bundle.predict_script import write_predict_script
from distillkit_export.bundle.publish import published, reserved_folder, unlinked
from distillkit_export.bundle.student_of_bundle import default_folder
from distillkit_export.export_options import ExportOptions
from distillkit_export.gate.accuracy_at_size import accuracy_loss_note
from distillkit_export.gate.gate import Gate
from distillkit_export.gate.limits import TOLERANCES
from distillkit_export.gate.parity import reference_outputs
from distillkit_export.gate.report import write_report
from distillkit_export.gate.samples import SAMPLES, write_samples
from distillkit_export.images.gate_images import ExportImages, as_file_input, given_images, stand_in
from distillkit_export.onnx.exporter import FILES
from distillkit_export.pipeline.extend_bundle import extend_bundle
from distillkit_export.pipeline.formats import Format, onnx_format, other_formats
from distillkit_export.pipeline.result import ExportResult
from distillkit_export.pipeline.stage import Stage
from distillkit_export.pipeline.target_folder import require_exportable

if TYPE_CHECKING:
    from distillkit.plugin.registry import PluginRegistry
    from distillkit.storage.atomic_directory import Place
    from distillkit_export.pipeline.target import ExportTarget


FEW_IMAGES = 16
"""Fewer images than these for calibration are noted."""


def export(
    target: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    options: ExportOptions | None = None,
    *,
    plugins: PluginRegistry | None = None,
) -> ExportResult:
    """Export a student as a bundle; `distillkit export` calls it.

    `target` is a run directory, a student or checkpoint inside one, a model by name ("timm:resnet18"), or a bundle, to
    which formats are added in place. `options.checkpoint` chooses the student of a run. Without `out`, a run is
    exported to its folder `export/`, its best student to `export-best/` next to that, a model by name to
    `exports/<name>`. `plugins` are the installed ones by default. Files that failed the gate or are pending do not
    raise here; call `ExportResult.require` for that.
    Raises: before any weights are loaded, MissingExtraError, UnknownPluginError, or RunDirectoryError for an output
    folder that is not free; afterwards as `export_model`; for a bundle as `extend_bundle`.

    >>> from distillkit_export import ExportOptions, export
    >>> result = export("runs/digits", options=ExportOptions(fp16=True, int8=True))  # doctest: +SKIP
    >>> result.directory, result.parity.max_relative  # doctest: +SKIP
    (PosixPath('runs/digits/export'), 6.1e-07)
    """
    target, options, plugins = os.fspath(target), options or ExportOptions(), plugins or installed_plugins()
    out = None if out is None else Path(out)
    if (Path(target) / MANIFEST).is_file():
        return extend_bundle(target, options, plugins=plugins, out=out)
    target = str(student_directory(Path(target), options.checkpoint)) if options.checkpoint else target
    # Cheap checks first: importing torch takes seconds, and loading a model may download weights.
    onnx, others = onnx_format(options, plugins), other_formats(options, plugins)
    directory = out or unlinked(default_folder(target))
    with reserved_folder(directory, force=options.force) as place:
        require_exportable(target, plugins, options.weights)
        require("torch", "timm", what="distillkit export")
        onnx.exporter.check()
        from distillkit.models.heads import Answer, check_head
        from distillkit_export.pipeline.target import load_target

        loaded = load_target(target, plugins, options)
        check_head(options.head, loaded.model.spec, Answer(idle=loaded.idle_heads), subject=f"'{target}'")
        if options.fusion is not None:
            _require_two_heads(loaded.model.spec, loaded.request.head, target)
        return _export_into(place, [onnx, *others], loaded, directory, options)


def export_onnx(
    model: Model,
    directory: Path,
    request: ExportRequest | None = None,
    images: Iterable[Any] | None = None,
    options: ExportOptions | None = None,
) -> ExportResult:
    """Export a model in memory to ONNX.

    `images` are for the gate and calibration: tensors or arrays [C, H, W] or [B, C, H, W], normalised with the model's
    mean and std. Without them the gate uses sample photographs, and the result is marked as weak.
    Raises: as `export_model`, MissingExtraError, RecipeError for invalid settings of ONNX, and ShapeError for images of
    the wrong shape.
    """
    from distillkit_export.pipeline.target import ExportTarget

    options = options or ExportOptions()
    form = onnx_format(options, installed_plugins())
    form.exporter.check()
    request = request or ExportRequest()
    spec = replace(model.spec, image_size=request.image_size or model.spec.image_size)
    if images is None:
        export_images = stand_in(spec, "no images were given")
    else:
        given = given_images(images, spec)
        export_images = ExportImages(given, given)
    target = ExportTarget(model, request, lambda: export_images)
    return export_model([form], target, directory, options)


def export_model(
    formats: Sequence[Format], target: ExportTarget, directory: Path, options: ExportOptions
) -> ExportResult:
    """Write a model in all `formats`, the first of which is ONNX, to `directory`, which appears complete or not at all.

    Files that fail the gate are moved to `rejected/`; files that no runtime here executes are ungated.
    `ExportResult.require` raises for both.
    Raises: RunDirectoryError for a folder that is not free or not writable, or for a full disk; UserError for an
    image size that the model does not support, for probabilities of a model without a class head, or for a precision
    that needs real images without any; UnavailableError if the model cannot be written; GateError if `model.onnx`
    disagrees with torch: the files are then kept in `rejected/`, and an earlier export stays.
    """
    with reserved_folder(directory, force=options.force) as place:
        return _export_into(place, formats, target, directory, options)


def _export_into(
    place: Place, formats: Sequence[Format], target: ExportTarget, directory: Path, options: ExportOptions
) -> ExportResult:
    from distillkit_export.from_torch.graph import torch_scorer
    from distillkit_export.from_torch.image_size import at_image_size
    from distillkit_export.gate.first_torch_module import first_module

    load_before = load_average()
    request, images = target.request, target.find_images()
    model = at_image_size(target.model, request.image_size)
    facts = describe(model.spec, request)
    gate_images = as_file_input(images.gate, model.spec, request)
    classes = facts.output.kind != "embedding"
    name = f"torch {versions()['torch']}, eager, float32, CPU"
    _require_calibration_images(options, images)
    few = few_images_note(options, images)
    gate_images = replace(gate_images, note="; ".join(filter(None, (gate_images.note, few))))
    reference = reference_outputs(torch_scorer(model, request), gate_images, name, classes=classes)
    reference = replace(reference, note=accuracy_loss_note(reference, model.spec.image_size, target.run_accuracy))
    onnx, *others = formats
    with published(directory, place, force=options.force) as building:
        files: dict[Precision, Path] = {}
        # The range scan of float16 may use photographs; INT8 and FP8 without real images were refused above.
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
        gate = Gate(reference, limits, building / FILES["fp32"], partial(first_module, model, request))
        stage = Stage(building, source, gate, files, load_before=load_before)
        try:
            stage.make_onnx(onnx, options.precisions)
            if options.comparison is not None:
                stage.make_for_comparison(onnx, options.comparison)
            for form in others:
                for precision in options.precisions or ("fp32",):
                    stage.make(form, precision)
            stage.finish()
        finally:
            write_report(building, stage.verdicts, reference)  # also after a failed gate, into rejected/
        write_samples(building / SAMPLES, reference)
        write_predict_script(building, facts)
        bundle = write_manifest(building, facts, request.opset, stage.cards(), stage.pending)
    return ExportResult(directory, tuple(stage.verdicts), tuple(stage.pending), reference, bundle)


def _require_two_heads(spec: ModelSpec, head: Head, target: str) -> None:
    """Refuse a fusion for a model with one head."""
    if head == "fused" and Signal.DISTILL_LOGITS in spec.signals:
        return
    only = "distillation head" if head == "distill" else "class head"
    output = f"only its {only}" if Signal.LOGITS in spec.signals else "its embedding"
    raise UserError(f"--fusion needs two heads, but '{target}' outputs {output}; leave out --fusion")


def few_images_note(options: ExportOptions, images: ExportImages) -> str:
    """A warning about INT8 and FP8 ranges from few images, or from images of one class; empty without a reason."""
    chosen = images.calibration
    if chosen is None or not {"int8", "fp8"} & set(options.precisions):
        return ""
    count = len(chosen.pixels)
    if count < FEW_IMAGES:
        return f"calibrated on {counted(count, 'image')}, fewer than {FEW_IMAGES}: the ranges may be too narrow"
    if chosen.labels is not None and len(set(chosen.labels.tolist())) == 1:
        return f"calibrated on {count:,} images of a single class: the ranges may not fit the other classes"
    return ""


def _require_calibration_images(options: ExportOptions, images: ExportImages) -> None:
    """Refuse INT8 and FP8 without real images: ranges from two photographs or noise would be wrong.

    Raises: UserError.
    """
    calibrated = [precision for precision in options.precisions if precision in {"int8", "fp8"}]
    if calibrated and images.calibration is None:
        source = images.gate.source
        raise UserError(f"--{calibrated[0]} needs real images for calibration, but has only {source}; give --data DIR")
