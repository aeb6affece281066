"""The Python API: plan, train, resume and evaluate, and load the student of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.comparison.from_python import compare
from distillkit.compute.main_guard import refuse_while_importing
from distillkit.contracts.student_directory import student_directory
from distillkit.errors import RecipeError, RunDirectoryError
from distillkit.messages.progress import ProgressDisplay
from distillkit.planning.preflight import CheckedRecipe, check_new_run, open_data
from distillkit.plugin.extras import require
from distillkit.plugin.given_student import given_name, registry_with
from distillkit.plugin.registry import PluginRegistry, installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.recipe.schema import Recipe
from distillkit.running.default_directory import next_directory
from distillkit.running.directory import RunDirectory
from distillkit.running.metrics import read_metrics
from distillkit.running.progress import RunProgress
from distillkit.sweeping.from_python import sweep

# torch takes seconds to import, so functions import what needs it.
if TYPE_CHECKING:
    from torch import nn

    from distillkit.data.sources import Split
    from distillkit.evaluation.loaded_student import LoadedStudent
    from distillkit.evaluation.measurement import EvaluationResult
    from distillkit.planning.plan import Plan
    from distillkit.running.training_run import RunResult

__all__ = [
    "compare",
    "evaluate",
    "load_recipe",
    "load_student",
    "plan",
    "read_metrics",
    "resume",
    "run",
    "run_together",
    "sweep",
    "with_student",
]


def plan(
    recipe: str | PathLike[str] | Recipe | None = None, *, plugins: PluginRegistry | None = None, **options: Any
) -> Plan:
    """Check a recipe and its cost without training: models, signals, losses, data, steps. Loads no weights.

    `recipe` and `options` are those of `load_recipe`, with the student as in `run`. `plugins` defaults to the
    installed ones.

    Raises: RecipeError, PluginError, MissingFileError, DataError, ClassSpaceError or SignalError if the recipe cannot
    run.

    For example:
        >>> checked = distillkit.plan("digits", loss="ce", training={"steps": 10})
        >>> checked.steps, checked.student.spec.parameters
        (10, 205012)
    """
    resolved, registry, checked = _resolve("plan", recipe, options, plugins)
    from distillkit.planning.make_plan import make_plan

    return make_plan(resolved, registry, checked)


def run(
    recipe: str | PathLike[str] | Recipe | None = None,
    out: str | PathLike[str] | None = None,
    *,
    progress: bool = False,
    plugins: PluginRegistry | None = None,
    observers: Sequence[object] = (),
    **options: Any,
) -> RunResult:
    """Train a student. Writes nothing until models, weights and data have been checked.

    `recipe` and `options` are those of `load_recipe`. `out` is a new directory, by default the next free
    `runs/<student>-<data>-<losses>-<seed>-<number>`. `progress` shows progress on stderr. `observers` are objects with
    life-cycle hooks (`docs/reference/hooks.md`). `plugins` defaults to the installed ones.

    `student` may also be a `torch.nn.Module`, whose weights are the initial ones, or a function that builds one; then
    `features` names the modules whose outputs losses may read as its layers, such as `"layer4"`. What is saved is its
    state dict. Its run cannot be rebuilt by name: see `resume` and `with_student`.

    Returns the run directory (`directory`) and the results of the student (`figures`): accuracies in percent, such as
    `test/top1`, and the other figures in `result.json`.

    Raises: RunDirectoryError if `out` is not empty; the errors of `plan`; WeightsError; TrainingError if training
    fails; RunInterrupted on SIGTERM or Ctrl-C, after the step is saved; UserError if the script has no
    `if __name__ == "__main__":` and loader processes would run it again.

    For example:
        >>> result = distillkit.run("digits", "runs/first", loss="ce", training={"steps": 10})
        >>> result.steps, "test/top1" in result.figures
        (10, True)
    """
    refuse_while_importing()
    # Of several processes only the first one may check: it creates the directory.
    if out is not None and os.environ.get("WORLD_SIZE", "1") == "1":
        RunDirectory(Path(out)).check_free()
    resolved, registry, checked = _resolve("run", recipe, options, plugins)
    directory = next_directory(resolved) if out is None else Path(out)
    with _progress_observers(enabled=progress) as shown:
        observers = [*shown, *observers]
        for observer in observers:
            if isinstance(observer, RunProgress):
                observer.announce(resolved)
        from distillkit.running import start

        return start.run(resolved, directory, registry, checked, observers=observers)


def run_together(
    recipes: Sequence[str | PathLike[str] | Recipe],
    outs: Sequence[str | PathLike[str]],
    *,
    resume: bool = False,
    progress: bool = False,
    plugins: PluginRegistry | None = None,
    observers: Sequence[object] = (),
) -> list[RunResult | Exception]:
    """Train several students in one pass over the data: images are loaded and augmented, and teachers run, only once.

    On a CPU every student ends bit for bit as with `run`, in its own run directory with all of its files. The recipes
    have to agree on everything that decides the images, the teachers and the number of steps: `data`, `augment`,
    `mixing`, `teachers` (or none), batch and micro-batch size, device, and the size and normalisation of the students'
    images. Students, losses, optimisers, `seed` and `bank` may differ.

    `recipes` are names, files or recipes as for `run`, and `outs` their run directories. With `resume`, runs that were
    started continue from their newest checkpoints, those that are behind first, and the results of finished ones are
    read; each can also be continued alone with `resume`. `progress`, `plugins` and `observers` are those of `run`;
    `observers` are called for every run.

    Returns the result of each run, in order, or the error with which it left, such as a TrainingError; the others
    continue without it.

    Raises: RecipeError if the runs cannot share a pass, with the keys in which they differ; RunInterrupted on SIGTERM
    or Ctrl-C, after the step of every run is saved; for the first run that cannot start, as `run` and `resume`.

    For example:
        >>> short = {"steps": 10}
        >>> recipes = [distillkit.load_recipe("digits", loss="ce", seed=seed, training=short) for seed in (0, 1)]
        >>> results = distillkit.run_together(recipes, ["runs/seed-0", "runs/seed-1"])
        >>> [result.steps for result in results]
        [10, 10]
    """
    refuse_while_importing()
    directories = [Path(out) for out in outs]
    _check_directories(directories, len(recipes))
    registry = plugins or installed_plugins()
    # Of several processes only the first one may check: it creates the directories.
    if not resume and os.environ.get("WORLD_SIZE", "1") == "1":
        for directory in directories:
            RunDirectory(directory).check_free()
    resolved = {
        directory: load_recipe(recipe, plugins=registry) for directory, recipe in zip(directories, recipes, strict=True)
    }
    found = {
        directory: check_new_run(recipe, registry)
        for directory, recipe in resolved.items()
        if not (resume and RunDirectory(directory).recipe.is_file())
    }
    require("torch", "timm", what="distillkit.run_together")
    checked = {directory: open_data(resolved[directory], registry, each) for directory, each in found.items()}
    from distillkit.running import together

    with closing(ProgressDisplay()) as display:
        requests = {
            directory: together.Request(
                recipe,
                checked.get(directory),
                [*([RunProgress(display, str(directory))] if progress else []), *observers],
            )
            for directory, recipe in resolved.items()
        }
        outcomes = together.run_together(requests, registry, resume=resume)
    return [outcomes[directory] for directory in directories]


def resume(
    directory: str | PathLike[str],
    *,
    student: nn.Module | Callable[[], nn.Module] | str | None = None,
    progress: bool = False,
    plugins: PluginRegistry | None = None,
    observers: Sequence[object] = (),
    **options: Any,
) -> RunResult:
    """Resume a run from its newest checkpoint, or from the start if it has none; exact on the same kind of device.

    `progress`, `plugins`, `observers` and the result are those of `run`. `options` are those of `load_recipe`, such as
    `assignments=["data.workers=2"]`, for the settings that may change: `data.workers`, `data.broken`, `training.keep`,
    `training.log_every`, `training.patience`, and, no longer bit-equal, `training.device`, `training.micro_batch_size`
    and `training.threads`. `student` is the network of a run whose student was given from Python, or the function that
    builds it; its weights come from the checkpoint.

    Raises: RunDirectoryError if `directory` is not a run or is finished, or another setting would change;
    CheckpointError; otherwise as `run`.

    For example:
        >>> distillkit.resume("runs/stopped").steps
        10
    """
    refuse_while_importing()
    RunDirectory(Path(directory)).read_unfinished_recipe()  # for its errors, before torch is imported
    require("torch", "timm", what="distillkit run")
    if isinstance(student, str):  # a setting like the others
        student, options = None, {**options, "student": student}
    registry = plugins or installed_plugins() if student is None else with_student(student, plugins)
    from distillkit.running import start

    with _progress_observers(enabled=progress) as shown:
        return start.resume(Path(directory), registry, options, observers=[*shown, *observers])


def evaluate(  # noqa: PLR0913 - one parameter per option of the verb
    target: str | PathLike[str],
    protocol: str = "top1",
    *,
    data: str | PathLike[str] | None = None,
    split: Split | None = None,
    validation: str | PathLike[str] | float | None = None,
    strict_data: bool = False,
    checkpoint: str | int | None = None,
    weights: str | PathLike[str] | None = None,
    device: str = "auto",
    crop: float | None = None,
    plugins: PluginRegistry | None = None,
    **options: Any,
) -> EvaluationResult:
    """Evaluate a model by a protocol. The result for a run is also appended to its `evaluations.jsonl`.

    `target` is a run directory, a student in it (`RUN/best`, `RUN/ema`), or the name of a teacher. `checkpoint` chooses
    the student of a run: last, best, ema, or the step of a checkpoint. `protocol` is top1,
    knn, linear, few-label or another installed evaluator; `options` are its options, such as `k=[20]`. `data` and
    `split` (train, validation or test) default to the run's data and its test split. `validation` is a folder or name,
    or the share of the training images to hold out; with 0, k-NN compares with all of them. Unreadable images are left
    out and counted; with `strict_data` they are an error. `weights` is a weight file for a teacher. `device` is auto,
    cpu, cuda, cuda:1 or mps. `crop` is the share of the resized image that the centre crop keeps, such as 0.875; the
    default is that of the run and, for a teacher by name, that of the protocol, else of its weights.

    Returns `figures`, in percent by name, with `images` as the number of images; details are in `measurement`.

    Raises: RunDirectoryError if `target` is neither a run nor a teacher; SignalError if the model lacks a signal that
    the protocol reads; DataError if the data lacks the split or its labels; RecipeError for a wrong option; UserError
    as `run`.

    For example:
        >>> result = distillkit.evaluate("runs/first", split="validation", head="class")
        >>> result.figures["images"]
        130.0
    """
    refuse_while_importing()
    from distillkit.running.target import check_evaluation

    registry, chosen = plugins or installed_plugins(), {name: _text(value) for name, value in options.items()}
    student = None if checkpoint is None else str(checkpoint)
    check_evaluation(
        os.fspath(target),
        registry,
        protocol=protocol,
        options=chosen,
        data=_text(data),
        checkpoint=student,
        weights=_text(weights),
    )
    require("torch", "timm", what="distillkit evaluate")
    from distillkit.evaluation.evaluate import evaluate as evaluated

    return evaluated(
        os.fspath(target),
        registry,
        protocol=protocol,
        options=chosen,
        data=_text(data),
        split=split,
        validation=_text(validation),
        strict=strict_data,
        checkpoint=student,
        weights=_text(weights),
        device=device,
        crop=crop,
    )


def load_student(
    path: str | PathLike[str], *, checkpoint: str | int | None = None, plugins: PluginRegistry | None = None
) -> LoadedStudent:
    """Load the student of a run as a `torch.nn.Module`, on the CPU and in evaluation mode.

    `path` is a run directory, for the student after the last step, or a student in it: `RUN/best`, `RUN/ema`.
    `checkpoint` chooses another student of a run: last, best, ema, or the step of a checkpoint.

    Shapes: `student(images)` accepts float32 images [B, C, H, W], normalised as in `student.spec`, and returns the
    logits [B, K] of the head that the run evaluated, with two heads fused if the run fused them. A student whose class
    head was not trained by any loss returns its embedding [B, D].

    `student.spec` describes it: `image_size` (height, width), `mean`, `std`, `crop`, `interpolation`, `classes`, and
    `class_names` if known. `student.preprocess` converts a path, a PIL image or uint8 pixels [H, W, 3] or [H, W] to a
    tensor [C, H, W], as in the evaluation of the run; an image that cannot be converted to RGB is a DataError.
    `student.network` is the bare network.

    Raises: RunDirectoryError if the directory has no student; WeightsError if its weights do not fit; PluginError if
    its plugin is not installed.

    For example:
        >>> student = distillkit.load_student("runs/first")
        >>> student(torch.zeros(2, 3, *student.spec.image_size)).shape
        torch.Size([2, 10])
    """
    require("torch", "timm", what="distillkit.load_student")
    from distillkit.evaluation.loaded_student import LoadedStudent
    from distillkit.evaluation.open_model import open_student

    directory = student_directory(Path(path), checkpoint, option="checkpoint")
    return LoadedStudent(open_student(directory, plugins or installed_plugins())).eval()


def with_student(student: nn.Module | Callable[[], nn.Module], plugins: PluginRegistry | None = None) -> PluginRegistry:
    """The installed plugins, and a network given from Python as the student `module`.

    For the `plugins` of `load_student`, `evaluate` and `distillkit_export.export`, with the run of such a student.
    `student` is a network with the same modules, or the function that builds it; its weights are replaced.

    Raises: RecipeError for anything else.

    For example:
        >>> plugins = distillkit.with_student(network)  # doctest: +SKIP
        >>> distillkit.evaluate("runs/detector", plugins=plugins)  # doctest: +SKIP
    """
    return registry_with(student, plugins or installed_plugins())


def _check_directories(directories: Sequence[Path], recipes: int) -> None:
    """Check that every recipe has a run directory of its own.

    Raises: RunDirectoryError.
    """
    if not recipes or len(directories) != recipes:
        raise RunDirectoryError(
            f"there are {recipes} recipes and {len(directories)} run directories; give one directory per recipe"
        )
    places = [os.path.realpath(directory) for directory in directories]
    twice = next(
        (directory for directory, place in zip(directories, places, strict=True) if places.count(place) > 1), None
    )
    if twice is not None:
        raise RunDirectoryError(f"{twice} is the run directory of two recipes; give each its own")


def _resolve(
    verb: str,
    recipe: str | PathLike[str] | Recipe | None,
    options: Mapping[str, Any],
    plugins: PluginRegistry | None,
) -> tuple[Recipe, PluginRegistry, CheckedRecipe]:
    """The recipe, the registry, and the plugins and the data that the recipe names."""
    registry, options = _given_student(options, plugins or installed_plugins())
    resolved = load_recipe(recipe, plugins=registry, **options)
    # Before torch is imported, which takes seconds: a misspelt name should fail at once.
    recipe_plugins = check_new_run(resolved, registry, loads_weights=verb != "plan")
    require("torch", "timm", what=f"distillkit {verb}")
    return resolved, registry, open_data(resolved, registry, recipe_plugins)


def _given_student(options: Mapping[str, Any], plugins: PluginRegistry) -> tuple[PluginRegistry, dict[str, Any]]:
    """The plugins and options for a student that is a network or a function; unchanged for one by name."""
    others = {key: value for key, value in options.items() if key != "features"}
    student, features = options.get("student"), options.get("features")
    if student is None or isinstance(student, str | PathLike | Mapping):
        if features is not None:
            raise RecipeError("features names layers of a student that is a torch.nn.Module; leave it out, or give one")
        return plugins, others
    named = {"student": given_name(student)} | ({} if features is None else {"student.features": features})
    return registry_with(student, plugins), others | named


@contextmanager
def _progress_observers(*, enabled: bool) -> Iterator[list[object]]:
    """The observer that shows progress on stderr, if enabled."""
    with closing(ProgressDisplay()) as display:
        yield [RunProgress(display)] if enabled else []


def _text(value: Any) -> Any:
    """A path as a string; any other value unchanged."""
    return os.fspath(value) if isinstance(value, PathLike) else value
