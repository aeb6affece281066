"""Target of `distillkit export`: a run, one of its students or checkpoints, or a model by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distillkit.contracts.exporter import ExportRequest, Provenance
from distillkit.contracts.model import Model, ModelRequest, ModelSpec
from distillkit.errors import CheckpointError, RunDirectoryError, UserError, WeightsError
from distillkit.models import Described, OneAnswer, load_saved_student, load_weights
from distillkit.models.build import build_model
from distillkit.models.saved_student import DESCRIPTION, WEIGHTS
from distillkit.plugin.registry import PluginRegistry, split_name
from distillkit.running.checkpoint import checkpoints
from distillkit.running.directory import RunDirectory
from distillkit.storage.atomic import sha256
from distillkit_export.export_options import ExportOptions
from distillkit_export.from_torch.image_size import at_image_size
from distillkit_export.gate.accuracy_at_size import RunAccuracy, read_run_accuracy
from distillkit_export.images.gate_images import ExportImages, stand_in
from distillkit_export.images.run_images import named_images, run_images, with_run_settings

CHECKPOINT_WEIGHTS = "task.safetensors"
STUDENT_PREFIX = "student.network."


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


def default_folder(target: str) -> Path:
    """Default output folder of an export.

    It is in the run's folder, never in that of its best student or a checkpoint, which the run replaces.
    """
    path = Path(target)
    if not path.is_dir():
        return Path("exports") / target.replace(":", "-").replace("/", "-")
    run = _run_folder(path)
    return path / "export" if run in (None, path) else run / f"export-{path.resolve().name}"


def _run_folder(path: Path) -> Path | None:
    """The run directory that contains a path, or the path itself if it is one; None for other paths."""
    # Unresolved paths first, to keep messages short. "." has parents only after it is resolved.
    candidates = (path, path.parent, path.parent.parent, *path.resolve().parents[:2])
    return next((folder for folder in candidates if (folder / "recipe.toml").is_file()), None)


def load_target(target: str, plugins: PluginRegistry, options: ExportOptions | None = None) -> ExportTarget:
    """Load the model that `target` names.

    Raises: RunDirectoryError for a directory without a student or an unknown name; whatever loading the model raises.
    """
    path, options = Path(target), options or ExportOptions()
    if not path.is_dir():
        return _load_by_name(target, plugins, options)
    if options.weights is not None:
        raise UserError(
            f"'{target}' already has weights; leave out --weights, or give a model by name such as timm:resnet18"
        )
    run = _run_folder(path)
    if (path / DESCRIPTION).is_file():
        return _load_saved(path, run, plugins, options)
    if run is not None and (path / CHECKPOINT_WEIGHTS).is_file():
        return _load_checkpoint(path, RunDirectory(run), plugins, options)
    raise RunDirectoryError(_nothing_to_export(path))


def _load_by_name(target: str, plugins: PluginRegistry, options: ExportOptions) -> ExportTarget:
    """Load a model by name: any teacher of the plugins."""
    if split_name(target)[0] not in {plugin.spec.name for plugin in plugins.listing("teacher")}:
        raise RunDirectoryError(
            f"'{target}' is neither a directory nor a model by name; give a run directory, a directory with "
            f"{DESCRIPTION}, or a name such as timm:resnet18"
        )
    weights = options.weights
    plugin = plugins.find("teacher", target)
    request = ModelRequest(plugin.name, plugin.argument, plugin.options({}), weights=weights)
    _require_weights(plugin.load(), request)
    model = build_model(plugin, request)
    if isinstance(model, OneAnswer):
        # A teacher has its two heads merged into one output; for an export the user selects the head.
        model = Described(model.model, replace(model.model.spec, class_names=model.spec.class_names))
    model = at_image_size(model, options.image_size)
    digest = sha256(Path(weights)) if weights is not None and Path(weights).is_file() else None
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
    """Load a directory with `student.json`: a finished run, its best student or its EMA."""
    model, saved = load_saved_student(path, plugins)
    run_accuracy = None if run is None else read_run_accuracy(RunDirectory(run), model.spec.image_size)
    model = at_image_size(model, options.image_size)
    if run is not None:
        # Before sha256 below: reading the recipe refuses a huge recipe.toml at once.
        model = Described(model, with_run_settings(model.spec, RunDirectory(run)))
    provenance = Provenance(
        model=saved.model,
        options=saved.options,
        run=(run or path).resolve().name,
        recipe_sha256=None if run is None else sha256(RunDirectory(run).recipe),
        weights_sha256=sha256(path / WEIGHTS),
        teachers=_teachers(run),
    )
    request = options.request(saved.head, saved.fusion, provenance)
    if run is None:
        find = partial(_images_of_data, model.spec, plugins, "the student has no run directory", options)
    else:
        find = partial(run_images, model.spec, RunDirectory(run), plugins, options)
    return ExportTarget(model, request, find, saved.idle_heads, run_accuracy)


def _load_checkpoint(path: Path, run: RunDirectory, plugins: PluginRegistry, options: ExportOptions) -> ExportTarget:
    """Load a checkpoint of a run, with the student of the run's recipe and plan."""
    recipe, plan = run.read_recipe(), run.read_plan()
    entry = recipe.student
    plugin = plugins.find("student", entry.model)
    request = ModelRequest(plugin.name, plugin.argument, plugin.options(entry.options), classes=plan["classes"])
    model = build_model(plugin, request)
    weights = path / CHECKPOINT_WEIGHTS
    # A checkpoint fits the student of its own run exactly, so nothing may be resized or left out.
    load_weights(model, _student_weights(weights), source=str(weights), fit="nothing")
    model = at_image_size(model, options.image_size)
    spec = with_run_settings(model.spec, run)
    model = Described(model, spec)
    provenance = Provenance(
        model=entry.model,
        options=request.options.model_dump(mode="json", exclude_unset=True),
        run=run.path.resolve().name,
        recipe_sha256=sha256(run.recipe),
        weights_sha256=sha256(weights),
        teachers=_teachers(run.path),
    )
    request_for_export = options.request(plan["student"]["answers_with"], recipe.evaluation.fusion, provenance)
    return ExportTarget(model, request_for_export, partial(run_images, spec, run, plugins, options))


def _student_weights(file: Path) -> dict[str, Tensor]:
    """The student's weights (any shape) in a checkpoint; the other tensors belong to the losses."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {file} cannot be read ({error}); export another one") from error
    return {
        name.removeprefix(STUDENT_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(STUDENT_PREFIX)
    }


def _nothing_to_export(path: Path) -> str:
    """Message for a directory that cannot be exported, with a path nearby that can."""
    if not (path / "recipe.toml").is_file():
        inside = sorted(file.parent for file in path.glob(f"step-*/{CHECKPOINT_WEIGHTS}"))
        if inside and _run_folder(path) is not None:
            return f"'{path}' is a folder of checkpoints; export the newest with '{inside[-1]}'"
        return f"'{path}' contains no student; give a run directory, a directory with {DESCRIPTION}, or a checkpoint"
    run = RunDirectory(path)
    saved = checkpoints(run.checkpoints)
    if (run.best / DESCRIPTION).is_file():
        remedy = f"export its best student so far with '{run.best}'"
    elif saved:
        remedy = f"export its newest checkpoint with '{saved[-1]}'"
    else:
        remedy = f"continue it with --resume {path}"
    return f"run '{path}' is not finished; {remedy}"


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
