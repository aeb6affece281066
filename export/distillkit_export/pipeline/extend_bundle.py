"""Add formats to an existing bundle, usually on the target machine.

Needs neither torch nor the student: formats are made from the ONNX files of the bundle and gated with its samples.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distillkit.contracts.exporter import ExportSource, Precision
from distillkit.errors import RunDirectoryError, UserError
from distillkit.storage.atomic_directory import Place
from distillkit_export.bundle.copying import copy_bundle
from distillkit_export.bundle.manifest import REJECTED, Bundle, card, request_of, write_manifest
from distillkit_export.bundle.publish import building_in, locked_folder, unlinked
from distillkit_export.bundle.reader import OpenBundle, open_bundle
from distillkit_export.export_options import ONNX, ExportOptions, flag
from distillkit_export.gate.gate import Gate
from distillkit_export.gate.limits import TOLERANCES
from distillkit_export.gate.report import extend_report
from distillkit_export.gate.samples import read_samples
from distillkit_export.pipeline.formats import Format, other_formats, with_own_commands
from distillkit_export.pipeline.result import ExportResult
from distillkit_export.pipeline.stage import Stage
from distillkit_export.tensorrt.engine_card import FOLDER as TENSORRT_FOLDER

if TYPE_CHECKING:
    from distillkit.plugin.registry import PluginRegistry
    from distillkit_export.gate.parity import Reference


def extend_bundle(
    target: str, options: ExportOptions, *, plugins: PluginRegistry, out: Path | None = None
) -> ExportResult:
    """Add formats to the bundle `target`, in the selected precisions, else in the pending ones, else in float32.

    The bundle is replaced atomically. A file that fails the gate is put into `rejected/` and not added.
    Raises: UserError for `out` and other options that only apply to a student, if no format is given, or for a
    precision without an ONNX file in the bundle; BundleError for an invalid bundle; RunDirectoryError for a file that
    already exists, without `force`.
    """
    folder = Path(target)
    _refuse_options_of_student(target, options, out)
    # Locked before it is read: otherwise the slower of two exports would drop the files of the other.
    with locked_folder(folder) as place:
        return _extend(place, folder, options, plugins)


def _extend(place: Place, folder: Path, options: ExportOptions, plugins: PluginRegistry) -> ExportResult:
    for name in (REJECTED, TENSORRT_FOLDER):
        unlinked(folder / name)
    opened = open_bundle(folder)
    bundle, reference = with_own_commands(opened.manifest, plugins), read_samples(opened)
    options = _with_pending_settings(options, bundle, plugins)
    forms = other_formats(options, plugins)
    if not forms:
        raise UserError(_no_format_message(folder, bundle))
    jobs = [(form, precision) for form in forms for precision in _precisions(form, options, bundle)]
    _require_possible(folder, bundle, jobs, force=options.force)
    with building_in(place) as building:
        user_files = copy_bundle(place, building, bundle)
        # The copies: the files themselves may have been replaced since they were checked.
        OpenBundle(building, bundle).check_files()
        stage = _stage(building, bundle, reference, options)
        for form, precision in jobs:
            stage.make(form, precision)
        stage.finish()
        if stage.verdicts:
            extend_report(building, stage.verdicts, reference)
        tried = {(form.name, precision) for form, precision in jobs}  # their earlier files and pending entries go
        written = write_manifest(
            building,
            bundle,
            bundle.opset,
            [*(each for each in bundle.artifacts if (each.format, each.precision) not in tried), *stage.cards()],
            [*(each for each in bundle.pending if (each.format, each.precision) not in tried), *stage.pending],
            software=bundle.software,
            foreign=user_files,
        )
    return ExportResult(folder, tuple(stage.verdicts), tuple(stage.pending), reference, written)


def _refuse_options_of_student(target: str, options: ExportOptions, out: Path | None) -> None:
    """Refuse options that only apply to a student: a bundle already has its ONNX files and images."""
    given = (["out"] if out is not None else []) + options.changed(student_only=True)
    if given:
        raise UserError(
            f"{flag(given[0])} only applies to exporting a student, but '{target}' is a bundle, to which formats are "
            f"added in place; leave out {flag(given[0])}"
        )
    if ONNX in (options.settings or {}):
        raise UserError(
            f"--set {ONNX}.KEY only applies to exporting a student, but '{Path(target)}' is a bundle; leave it out"
        )


def _stage(building: Path, bundle: Bundle, reference: Reference, options: ExportOptions) -> Stage:
    files = {each.precision: building / each.file for each in bundle.artifacts if each.format == ONNX}
    pixels = reference.images.pixels
    source = ExportSource(
        request_of(bundle),
        onnx=files,
        card=card(bundle),
        images=pixels[np.arange(len(pixels))],
        images_from=reference.images.source,
        progress=options.progress,
    )
    return Stage(building, source, Gate(reference, TOLERANCES[options.tolerance]), files)


def _with_pending_settings(options: ExportOptions, bundle: Bundle, plugins: PluginRegistry) -> ExportOptions:
    """The options with the stored settings of pending files; settings that are given now override them.

    Settings that are never stored, such as paths of this machine, are not taken from a bundle either: a third party
    could name a file to write.
    """
    settings = dict(options.settings or {})
    for each in bundle.pending:
        if each.format in options.exporters and (not options.precisions or each.precision in options.precisions):
            stored = plugins.find("exporter", each.format).options(each.options)
            kept = stored.model_dump(mode="json", exclude_unset=True)
            settings[each.format] = {**kept, **(options.settings or {}).get(each.format, {})}
    return replace(options, settings=settings)


def _precisions(form: Format, options: ExportOptions, bundle: Bundle) -> tuple[Precision, ...]:
    pending = tuple(each.precision for each in bundle.pending if each.format == form.name)
    return options.precisions or pending or ("fp32",)


def _require_possible(folder: Path, bundle: Bundle, jobs: list[tuple[Format, Precision]], *, force: bool) -> None:
    """Refuse a precision without an ONNX file, and without `force` a file that already exists."""
    existing = {(each.format, each.precision): each.file for each in bundle.artifacts}
    for form, precision in jobs:
        if (ONNX, precision) not in existing:
            raise UserError(
                f"bundle '{folder}' has no ONNX file in {precision} to make {form.name} from; "
                f"export the run again with --{precision}"
            )
        if (form.name, precision) in existing and not force:
            file = existing[form.name, precision]
            raise RunDirectoryError(f"bundle '{folder}' already has {file}; give --force to replace it")


def _no_format_message(folder: Path, bundle: Bundle) -> str:
    """Message for a call without a format."""
    message = f"bundle '{folder}' already has its ONNX files, which are made from the student; give --format NAME"
    if not bundle.pending:
        return message
    return f"{message}, or make a pending file: {bundle.pending[0].command_for(folder)}"
