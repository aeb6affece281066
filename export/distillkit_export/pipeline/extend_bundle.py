"""Going on from a bundle: formats that could not be made where the student was exported, made where it will serve.

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
from distillkit.storage.atomic import whole_directory
from distillkit_export.bundle.manifest import Bundle, card, request_of, write_manifest
from distillkit_export.bundle.reader import open_bundle
from distillkit_export.gate.gate import Gate
from distillkit_export.gate.report import extend_report
from distillkit_export.gate.samples import read_samples
from distillkit_export.pipeline.export import ExportResult
from distillkit_export.pipeline.options import ONNX, ExportOptions
from distillkit_export.pipeline.stage import Format, Stage

if TYPE_CHECKING:
    from distillkit.plugin.registry import PluginRegistry
    from distillkit_export.gate.parity import Evidence


def export_from_bundle(
    folder: Path, asked: ExportOptions, *, plugins: PluginRegistry, force: bool = False
) -> ExportResult:
    """Add formats to a bundle: in the precisions asked for, else in those that are pending, else in float32.

    The bundle changes as a whole or not at all; a file that fails its gate lies in `rejected/` and is not added.
    Raises: BundleError for a bundle that is not whole; UserError where no format is asked for, or a precision that the
    bundle has no ONNX in; RunDirectoryError for a file that is there already, without `force`.
    """
    if ONNX in asked.settings:
        raise UserError(
            f"--set {ONNX}.KEY is about writing ONNX from a student, and '{folder}' is a bundle; leave it out"
        )
    opened = open_bundle(folder)
    bundle, against = opened.manifest, read_samples(opened)
    asked = _as_pending(asked, bundle)
    forms = asked.others(plugins)
    if not forms:
        raise UserError(_nothing_asked(folder, bundle))
    jobs = [(form, precision) for form in forms for precision in _precisions(form, asked, bundle)]
    _require_possible(folder, bundle, jobs, force=force)
    with whole_directory(folder.resolve()) as building:
        # Links stay links: what they lead to is not the bundle's, and may be the whole disk.
        copytree(folder, building, dirs_exist_ok=True, symlinks=True, ignore=_neither_files_nor_folders)
        strangers = {file for file in building.rglob("*") if file.relative_to(building).as_posix() not in bundle.files}
        stage = _stage(building, bundle, against, asked)
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
            strangers=strangers,
        )
    return ExportResult(folder, tuple(stage.verdicts), tuple(stage.pending), against, written)


def _stage(building: Path, bundle: Bundle, against: Evidence, asked: ExportOptions) -> Stage:
    files = {each.precision: building / each.file for each in bundle.artifacts if each.format == ONNX}
    pixels = against.pictures.pixels
    source = ExportSource(
        request_of(bundle),
        onnx=files,
        card=card(bundle),
        images=pixels[np.arange(len(pixels))],
        images_from=against.pictures.source,
        progress=asked.progress,
    )
    return Stage(building, source, Gate(against, asked.limits), files)


def _as_pending(asked: ExportOptions, bundle: Bundle) -> ExportOptions:
    """What is pending is made as it was asked for, unless something else is asked for now."""
    settings = {name: dict(given) for name, given in asked.settings.items()}
    for each in bundle.pending:
        if each.format in asked.formats and (not asked.precisions or each.precision in asked.precisions):
            settings[each.format] = {**each.options, **asked.settings.get(each.format, {})}
    return replace(asked, settings=settings)


def _precisions(form: Format, asked: ExportOptions, bundle: Bundle) -> tuple[Precision, ...]:
    pending = tuple(each.precision for each in bundle.pending if each.format == form.name)
    return asked.precisions or pending or ("fp32",)


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


def _nothing_asked(folder: Path, bundle: Bundle) -> str:
    said = f"bundle '{folder}' has its ONNX already, which is written from the student; name a format with --format"
    if not bundle.pending:
        return said
    return f"{said}, or finish what is pending: {bundle.pending[0].command_for(folder)}"


def _neither_files_nor_folders(folder: str, names: list[str]) -> set[str]:
    """Pipes and devices, which cannot be copied."""
    places = {name: Path(folder) / name for name in names}
    return {name for name, place in places.items() if not (place.is_symlink() or place.is_file() or place.is_dir())}
