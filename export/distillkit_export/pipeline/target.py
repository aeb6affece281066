"""Target of `distillkit export`: a run, one of its students or checkpoints, or a model by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from distillkit.contracts.exporter import ExportRequest, Provenance
from distillkit.contracts.model import Model, ModelRequest, ModelSpec
from distillkit.contracts.student_directory import is_checkpoint, run_of, student_name
from distillkit.errors import WeightsError
from distillkit.models import Described, OneAnswer, file_and_key, load_saved_student
from distillkit.models.build import build_model
from distillkit.models.saved_student import weights_file
from distillkit.models.weight_option import weights_are_given_by
from distillkit.plugin.registry import PluginRegistry, split_name
from distillkit.running.directory import RunDirectory
from distillkit.storage.atomic import sha256
from distillkit_export.export_options import ExportOptions
from distillkit_export.from_torch.image_size import at_image_size
from distillkit_export.gate.accuracy_at_size import RunAccuracy, read_run_accuracy
from distillkit_export.images.gate_images import ExportImages, stand_in
from distillkit_export.images.run_images import named_images, run_images, with_run_settings
from distillkit_export.pipeline.target_folder import require_exportable


@dataclass(frozen=True)
class ExportTarget:
    """A model to export, its export request, and a function that finds its images.

    `run_accuracy` is the test accuracy of its finished run, None if unknown. `idle_heads` were not trained.
    """

    model: Model
    request: ExportRequest
    find_images: Callable[[], ExportImages]
    idle_heads: tuple[str, ...] = ()
    run_accuracy: RunAccuracy | None = None


def load_target(target: str, plugins: PluginRegistry, options: ExportOptions | None = None) -> ExportTarget:
    """Load the model that `target` names.

    Raises: RunDirectoryError for a directory without a student or an unknown name; whatever loading the model raises.
    """
    path, options = Path(target), options or ExportOptions()
    require_exportable(target, plugins, options.weights)
    if not path.is_dir():
        return _load_by_name(target, plugins, options)
    return _load_saved(path, run_of(path), plugins, options)


def _load_by_name(target: str, plugins: PluginRegistry, options: ExportOptions) -> ExportTarget:
    """Load a model by name: any teacher of the plugins."""
    weights = options.weights
    plugin = plugins.find("teacher", target)
    request = ModelRequest(plugin.name, plugin.argument, plugin.options({}), weights=weights)
    with weights_are_given_by("--weights"):
        _require_weights(plugin.load(), request)
        model = build_model(plugin, request)
    if isinstance(model, OneAnswer):
        # A teacher has its two heads merged into one output; for an export the user selects the head.
        model = Described(model.model, replace(model.model.spec, class_names=model.spec.class_names))
    model = at_image_size(model, options.image_size)
    file = None if weights is None else file_and_key(Path(weights))[0]
    digest = sha256(file) if file is not None and file.is_file() else None
    provenance = Provenance(model=_without_path(target), weights_sha256=digest)
    find = partial(_images_of_data, model.spec, plugins, "a model by name has no images", options)
    return ExportTarget(model, options.request(provenance=provenance), find)


def _require_weights(factory: Any, request: ModelRequest) -> None:
    """Refuse weights that cannot be loaded, with the options of `export`; the teacher's message names recipe keys.

    Raises: WeightsError.
    """
    why_unavailable = getattr(factory, "why_unavailable", None)
    reason = why_unavailable(request) if why_unavailable else None
    if reason is not None:
        raise WeightsError(f"{reason}; give a file with --weights, or --weights none for an untrained network")


def _images_of_data(spec: ModelSpec, plugins: PluginRegistry, why: str, options: ExportOptions) -> ExportImages:
    """The images of --data for a model without images of its own; photographs if --data is not given."""
    return stand_in(spec, why) if options.data is None else named_images(spec, plugins, options)


def _load_saved(path: Path, run: Path | None, plugins: PluginRegistry, options: ExportOptions) -> ExportTarget:
    """Load a student: that of a finished run, its best student, its EMA, or one of its checkpoints."""
    model, saved = load_saved_student(path, plugins)
    # The run does not measure its checkpoints.
    is_measured = run is not None and not is_checkpoint(path)
    run_accuracy = read_run_accuracy(RunDirectory(run), model.spec.image_size) if run and is_measured else None
    model = at_image_size(model, options.image_size)
    if run is not None:
        # Before sha256 below: reading the recipe refuses a huge recipe.toml at once.
        model = Described(model, with_run_settings(model.spec, RunDirectory(run)))
    provenance = Provenance(
        model=saved.model,
        options=saved.options,
        run=(run or path).resolve().name,
        checkpoint=student_name(path),
        recipe_sha256=None if run is None else sha256(RunDirectory(run).recipe),
        weights_sha256=sha256(weights_file(path)),
        teachers=_teachers(run),
    )
    request = options.request(saved.head, saved.fusion, provenance)
    if run is None:
        find = partial(_images_of_data, model.spec, plugins, "the student has no run directory", options)
    else:
        find = partial(run_images, model.spec, RunDirectory(run), plugins, options)
    return ExportTarget(model, request, find, saved.idle_heads, run_accuracy)


def _teachers(run: Path | None) -> tuple[Mapping[str, Any], ...]:
    """Name, architecture and licence of the run's teachers, from its plan."""
    if run is None or not RunDirectory(run).plan.is_file():
        return ()
    return tuple(
        {"name": _without_path(teacher["name"]), "architecture": teacher["architecture"], "licence": teacher["licence"]}
        for teacher in RunDirectory(run).read_plan()["teachers"]
    )


def _without_path(name: str) -> str:
    """A model's name without absolute paths, which must not be in a bundle: "run:<name of the run>"."""
    head, argument = split_name(name)
    return f"{head}:{Path(argument).name}" if argument and Path(argument).is_absolute() else name
