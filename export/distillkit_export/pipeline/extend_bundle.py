"""Add formats to a bundle, where it will serve: those that could not be made where the student was exported.

Needs neither torch nor the student: everything is made from the ONNX in the bundle and gated against its samples.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING

import numpy as np

from distillkit.contracts.exporter import ExportSource, Precision
from distillkit.errors import RunDirectoryError, UserError
from distillkit.storage.atomic import atomic_directory
from distillkit_export.bundle.manifest import Bundle, card, request_of, write_manifest
from distillkit_export.bundle.reader import open_bundle
from distillkit_export.export_options import ONNX, ExportOptions, flag
from distillkit_export.gate.gate import Gate
from distillkit_export.gate.limits import TOLERANCES
from distillkit_export.gate.report import extend_report
from distillkit_export.gate.samples import read_samples
from distillkit_export.pipeline.formats import Format, other_formats
from distillkit_export.pipeline.result import ExportResult
from distillkit_export.pipeline.stage import Stage

if TYPE_CHECKING:
    from distillkit.plugin.registry import PluginRegistry
    from distillkit_export.gate.parity import Evidence


def extend_bundle(
    target: str, options: ExportOptions, *, plugins: PluginRegistry, out: Path | None = None
) -> ExportResult:
    """Add formats to the bundle `target`: in the chosen precisions, else in those that are pending, else in float32.

    The bundle changes as a whole or not at all; a file that fails its gate lies in `rejected/` and is not added.
    Raises: UserError for `out` and other options of the student, for no format at all, or for a precision that the
    bundle has no ONNX in; BundleError for a bundle that is not whole; RunDirectoryError for a file that is there
    already, without `force`.
    """
    folder = Path(target)
    _refuse_options_of_student(target, options, out)
    opened = open_bundle(folder)
    bundle, against = opened.manifest, read_samples(opened)
    options = _with_pending_settings(options, bundle)
    forms = other_formats(options, plugins)
    if not forms:
        raise UserError(_no_format(folder, bundle))
    jobs = [(form, precision) for form in forms for precision in _precisions(form, options, bundle)]
    _require_possible(folder, bundle, jobs, force=options.force)
    with atomic_directory(folder.resolve()) as building:
        # Links stay links: what they lead to is not the bundle's, and may be the whole disk.
        copytree(folder, building, dirs_exist_ok=True, symlinks=True, ignore=_neither_files_nor_folders)
        foreign = {file for file in building.rglob("*") if file.relative_to(building).as_posix() not in bundle.files}
        stage = _stage(building, bundle, against, options)
        for form, precision in jobs:
            stage.make(form, precision)
        stage.finish()
        if stage.verdicts:
            extend_report(building, stage.verdicts, against)
        tried = {(form.name, precision) for form, precision in jobs}
        written = write_manifest(
            building,
            bundle,
            bundle.opset,
            [*(each for each in bundle.artifacts if (each.format, each.precision) not in tried), *stage.cards()],
            [*(each for each in bundle.pending if (each.format, each.precision) not in tried), *stage.pending],
            software=bundle.software,
            foreign=foreign,
        )
    return ExportResult(folder, tuple(stage.verdicts), tuple(stage.pending), against, written)


def _refuse_options_of_student(target: str, options: ExportOptions, out: Path | None) -> None:
    """Refuse what is about writing ONNX from a student: a bundle has its ONNX and its images already."""
    given = (["out"] if out is not None else []) + options.changed(of_student=True)
    if given:
        raise UserError(
            f"{flag(given[0])} is about writing ONNX from a student, and '{target}' is a bundle, to which formats are "
            f"added where it lies; leave out {flag(given[0])}"
        )
    if ONNX in (options.settings or {}):
        raise UserError(
            f"--set {ONNX}.KEY is about writing ONNX from a student, and '{Path(target)}' is a bundle; leave it out"
        )


def _stage(building: Path, bundle: Bundle, against: Evidence, options: ExportOptions) -> Stage:
    files = {each.precision: building / each.file for each in bundle.artifacts if each.format == ONNX}
    pixels = against.pictures.pixels
    source = ExportSource(
        request_of(bundle),
        onnx=files,
        card=card(bundle),
        images=pixels[np.arange(len(pixels))],
        images_from=against.pictures.source,
        progress=options.progress,
    )
    return Stage(building, source, Gate(against, TOLERANCES[options.tolerance]), files)


def _with_pending_settings(options: ExportOptions, bundle: Bundle) -> ExportOptions:
    """The options with the settings that are noted for what is pending, below those that are given now."""
    settings = dict(options.settings or {})
    for each in bundle.pending:
        if each.format in options.exporters and (not options.precisions or each.precision in options.precisions):
            settings[each.format] = {**each.options, **(options.settings or {}).get(each.format, {})}
    return replace(options, settings=settings)


def _precisions(form: Format, options: ExportOptions, bundle: Bundle) -> tuple[Precision, ...]:
    pending = tuple(each.precision for each in bundle.pending if each.format == form.name)
    return options.precisions or pending or ("fp32",)


def _require_possible(folder: Path, bundle: Bundle, jobs: list[tuple[Format, Precision]], *, force: bool) -> None:
    """Refuse what the bundle has no ONNX for, and what it has already."""
    there = {(each.format, each.precision): each.file for each in bundle.artifacts}
    for form, precision in jobs:
        if (ONNX, precision) not in there:
            raise UserError(
                f"bundle '{folder}' has no ONNX in {precision}, from which {form.name} is made; "
                f"export the run again with --{precision}"
            )
        if (form.name, precision) in there and not force:
            file = there[form.name, precision]
            raise RunDirectoryError(f"bundle '{folder}' has {file} already; give --force to replace it")


def _no_format(folder: Path, bundle: Bundle) -> str:
    """Why nothing is added where no format is named, and what can be done."""
    message = f"bundle '{folder}' has its ONNX already, which is written from the student; name a format with --format"
    if not bundle.pending:
        return message
    return f"{message}, or finish what is pending: {bundle.pending[0].command_for(folder)}"


def _neither_files_nor_folders(folder: str, names: list[str]) -> set[str]:
    """Pipes and devices, which cannot be copied."""
    places = {name: Path(folder) / name for name in names}
    return {name for name, place in places.items() if not (place.is_symlink() or place.is_file() or place.is_dir())}
