"""What `distillkit export` may be pointed at: a run, one of its students or checkpoints, or a model by name."""

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
from distillkit_export.gate.accuracy_at_size import Reached, run_reached
from distillkit_export.images.gate_images import ExportImages, stand_in
from distillkit_export.images.run_images import as_run_knows, named_images, run_images

CHECKPOINT_WEIGHTS = "task.safetensors"
STUDENT_PREFIX = "student.network."


@dataclass(frozen=True)
class ExportTarget:
    """A model to export, what its files shall be, and images to check them on.

    `reached` is what its run measured, where it has reached its end.
    """

    model: Model
    request: ExportRequest
    find_images: Callable[[], ExportImages]
    idle_heads: tuple[str, ...] = ()
    reached: Reached | None = None


def default_folder(target: str) -> Path:
    """Where an export goes that is given no folder.

    Into the run's own folder, never into that of its best student or a checkpoint, which a run replaces.
    """
    path = Path(target)
    if not path.is_dir():
        return Path("exports") / target.replace(":", "-").replace("/", "-")
    home = _home(path)
    return path / "export" if home in (None, path) else home / f"export-{path.resolve().name}"


def _home(path: Path) -> Path | None:
    """The run that a directory is, or is part of."""
    # As typed first, so that what is shown stays short; "." has its parents only once it is resolved.
    places = (path, path.parent, path.parent.parent, *path.resolve().parents[:2])
    return next((place for place in places if (place / "recipe.toml").is_file()), None)


def load_target(target: str, plugins: PluginRegistry, options: ExportOptions | None = None) -> ExportTarget:
    """Load what `target` names, as `options` say.

    Raises: RunDirectoryError for a directory without a student and for an unknown name; whatever loading the model
    raises.
    """
    path, options = Path(target), options or ExportOptions()
    if not path.is_dir():
        return _named(target, plugins, options)
    if options.weights is not None:
        raise UserError(
            f"'{target}' has weights of its own; leave out --weights, or name a model such as timm:resnet18"
        )
    home = _home(path)
    if (path / DESCRIPTION).is_file():
        return _saved(path, home, plugins, options)
    if home is not None and (path / CHECKPOINT_WEIGHTS).is_file():
        return _checkpoint(path, RunDirectory(home), plugins, options)
    raise RunDirectoryError(_nothing_to_export(path))


def _named(target: str, plugins: PluginRegistry, options: ExportOptions) -> ExportTarget:
    """A model by name, with all of its weights: what the plugins call a teacher."""
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
        # As a teacher a model has one answer; here the choice between its heads is the user's.
        model = Described(model.model, replace(model.model.spec, class_names=model.spec.class_names))
    model = at_image_size(model, options.image_size)
    digest = sha256(Path(weights)) if weights is not None and Path(weights).is_file() else None
    provenance = Provenance(model=_public(target), weights_sha256=digest)
    find = partial(_images_of_data, model.spec, plugins, "a model by name has no images", options)
    return ExportTarget(model, options.request(provenance=provenance), find)


def _require_weights(factory: Any, request: ModelRequest) -> None:
    """Say what to type here where the weights cannot be had; the teacher itself names the options of a recipe."""
    why_unavailable = getattr(factory, "why_unavailable", None)
    reason = why_unavailable(request) if why_unavailable else None
    if reason is not None:
        raise WeightsError(f"{reason}; give a file with --weights, or --weights none for a network that is not trained")


def _images_of_data(spec: ModelSpec, plugins: PluginRegistry, why: str, options: ExportOptions) -> ExportImages:
    """The images of --data for a model that has none of its own."""
    return stand_in(spec, why) if options.data is None else named_images(spec, plugins, options)


def _saved(path: Path, home: Path | None, plugins: PluginRegistry, options: ExportOptions) -> ExportTarget:
    """A directory with `student.json`: a run that has reached its end, its best student, its moving average."""
    model, saved = load_saved_student(path, plugins)
    reached = None if home is None else run_reached(RunDirectory(home), model.spec.image_size)
    model = at_image_size(model, options.image_size)
    if home is not None:
        # Read before it is digested: a recipe.toml of gigabytes is refused at once.
        model = Described(model, as_run_knows(model.spec, RunDirectory(home)))
    provenance = Provenance(
        model=saved.model,
        options=saved.options,
        run=(home or path).resolve().name,
        recipe_sha256=None if home is None else sha256(RunDirectory(home).recipe),
        weights_sha256=sha256(path / WEIGHTS),
        teachers=_teachers(home),
    )
    request = options.request(saved.head, saved.fusion, provenance)
    if home is None:
        find = partial(_images_of_data, model.spec, plugins, "the student comes without its run", options)
    else:
        find = partial(run_images, model.spec, RunDirectory(home), plugins, options)
    return ExportTarget(model, request, find, saved.idle_heads, reached)


def _checkpoint(path: Path, run: RunDirectory, plugins: PluginRegistry, options: ExportOptions) -> ExportTarget:
    """One checkpoint of a run, built from the run's recipe and plan."""
    recipe, plan = run.read_recipe(), run.read_plan()
    entry = recipe.student
    plugin = plugins.find("student", entry.model)
    request = ModelRequest(plugin.name, plugin.argument, plugin.options(entry.options), classes=plan["classes"])
    model = build_model(plugin, request)
    weights = path / CHECKPOINT_WEIGHTS
    load_weights(model, _student_weights(weights), source=str(weights), fit="nothing")
    model = at_image_size(model, options.image_size)
    spec = as_run_knows(model.spec, run)
    model = Described(model, spec)
    provenance = Provenance(
        model=entry.model,
        options=request.options.model_dump(mode="json", exclude_unset=True),
        run=run.path.resolve().name,
        recipe_sha256=sha256(run.recipe),
        weights_sha256=sha256(weights),
        teachers=_teachers(run.path),
    )
    answer = options.request(plan["student"]["answers_with"], recipe.evaluation.fusion, provenance)
    return ExportTarget(model, answer, partial(run_images, spec, run, plugins, options))


def _student_weights(file: Path) -> dict[str, Tensor]:
    """The student's part of a checkpoint; the rest belongs to the losses."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {file} cannot be read ({error}); export another one") from error
    return {
        name.removeprefix(STUDENT_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(STUDENT_PREFIX)
    }


def _nothing_to_export(path: Path) -> str:
    """Why a directory cannot be exported, and what near it can."""
    if not (path / "recipe.toml").is_file():
        inside = sorted(file.parent for file in path.glob(f"step-*/{CHECKPOINT_WEIGHTS}"))
        if inside and _home(path) is not None:
            return f"'{path}' is a folder of checkpoints; export the newest with '{inside[-1]}'"
        return f"'{path}' holds no student; give a run directory, a directory with {DESCRIPTION}, or a checkpoint"
    run = RunDirectory(path)
    found = checkpoints(run.checkpoints)
    if (run.best / DESCRIPTION).is_file():
        remedy = f"export its best student so far with '{run.best}'"
    elif found:
        remedy = f"export its newest checkpoint with '{found[-1]}'"
    else:
        remedy = f"continue it with --resume {path}"
    return f"run '{path}' has not reached its end; {remedy}"


def _teachers(home: Path | None) -> tuple[Mapping[str, Any], ...]:
    """Name, architecture and licence of the run's teachers, as its plan has them."""
    if home is None or not RunDirectory(home).plan.is_file():
        return ()
    return tuple(
        {"name": _public(teacher["name"]), "architecture": teacher["architecture"], "licence": teacher["licence"]}
        for teacher in RunDirectory(home).read_plan()["teachers"]
    )


def _public(name: str) -> str:
    """A model's name without the folders of this machine: "run:<the run's own name>"."""
    head, argument = split_name(name)
    return f"{head}:{Path(argument).name}" if argument and Path(argument).is_absolute() else name
