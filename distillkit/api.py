"""The Python API: plan, train, resume and evaluate, and load the student of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.compute.main_guard import refuse_while_importing
from distillkit.messages.progress import ProgressDisplay
from distillkit.planning.names import RecipePlugins, find_plugins
from distillkit.plugin.extras import require
from distillkit.plugin.registry import PluginRegistry, installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.recipe.schema import Recipe
from distillkit.running.default_directory import next_directory
from distillkit.running.metrics import read_metrics
from distillkit.running.progress import RunProgress

# torch takes seconds to import, so functions import what needs it.
if TYPE_CHECKING:
    from distillkit.data.sources import Split
    from distillkit.evaluation.loaded_student import LoadedStudent
    from distillkit.evaluation.measurement import EvaluationResult
    from distillkit.planning.plan import Plan
    from distillkit.running.training_run import RunResult

__all__ = ["evaluate", "load_recipe", "load_student", "plan", "read_metrics", "resume", "run"]


def plan(
    recipe: str | PathLike[str] | Recipe | None = None, *, plugins: PluginRegistry | None = None, **options: Any
) -> Plan:
    """Check a recipe and its cost without training: models, signals, losses, data, steps. Loads no weights.

    `recipe` and `options` are those of `load_recipe`. `plugins` defaults to the installed ones.

    Raises: RecipeError, PluginError, DataError, ClassSpaceError or SignalError if the recipe cannot run.

    For example:
        >>> checked = distillkit.plan("digits", loss="ce", training={"steps": 10})
        >>> checked.steps, checked.student.spec.parameters
        (10, 205012)
    """
    resolved, registry, recipe_plugins = _resolve("plan", recipe, options, plugins)
    from distillkit.running import start

    return start.plan(resolved, registry, recipe_plugins)


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
    `runs/<student>-<data>-<number>`. `progress` shows progress on stderr. `observers` are objects with life-cycle hooks
    (`docs/reference/hooks.md`). `plugins` defaults to the installed ones.

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
    resolved, registry, recipe_plugins = _resolve("run", recipe, options, plugins)
    from distillkit.running import start

    directory = next_directory(resolved) if out is None else Path(out)
    with _progress_observers(enabled=progress) as shown:
        return start.run(resolved, directory, registry, recipe_plugins, observers=[*shown, *observers])


def resume(
    directory: str | PathLike[str],
    *,
    progress: bool = False,
    plugins: PluginRegistry | None = None,
    observers: Sequence[object] = (),
) -> RunResult:
    """Resume a run from its newest checkpoint, or from the start if it has none; exact on the same kind of device.

    `progress`, `plugins`, `observers` and the result are those of `run`.

    Raises: RunDirectoryError if `directory` is not a run or is finished; CheckpointError; otherwise as `run`.

    For example:
        >>> distillkit.resume("runs/stopped").steps
        10
    """
    refuse_while_importing()
    require("torch", "timm", what="distillkit run")
    from distillkit.running import start

    with _progress_observers(enabled=progress) as shown:
        return start.resume(Path(directory), plugins or installed_plugins(), observers=[*shown, *observers])


def evaluate(  # noqa: PLR0913 - one parameter per option of the verb
    target: str | PathLike[str],
    protocol: str = "top1",
    *,
    data: str | PathLike[str] | None = None,
    split: Split | None = None,
    strict_data: bool = False,
    weights: str | PathLike[str] | None = None,
    device: str = "auto",
    plugins: PluginRegistry | None = None,
    **options: Any,
) -> EvaluationResult:
    """Evaluate a model by a protocol. The result for a run is also appended to its `evaluations.jsonl`.

    `target` is a run directory, a student in it (`RUN/best`, `RUN/ema`), or the name of a teacher. `protocol` is top1,
    knn, linear, few-label or another installed evaluator; `options` are its options, such as `k=[20]`. `data` and
    `split` (train, validation or test) default to the run's data and its test split. Unreadable images are left out and
    counted; with `strict_data` they are an error. `weights` is a weight file for a teacher. `device` is auto, cpu,
    cuda, cuda:1 or mps.

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
    require("torch", "timm", what="distillkit evaluate")
    from distillkit.evaluation.evaluate import evaluate as evaluated

    return evaluated(
        os.fspath(target),
        plugins or installed_plugins(),
        protocol=protocol,
        options={name: _text(value) for name, value in options.items()},
        data=_text(data),
        split=split,
        strict=strict_data,
        weights=_text(weights),
        device=device,
    )


def load_student(path: str | PathLike[str], *, plugins: PluginRegistry | None = None) -> LoadedStudent:
    """Load the student of a run as a `torch.nn.Module`, on the CPU and in evaluation mode.

    `path` is a run directory, for the student after the last step, or a student in it: `RUN/best`, `RUN/ema`.

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

    return LoadedStudent(open_student(Path(path), plugins or installed_plugins())).eval()


def _resolve(
    verb: str,
    recipe: str | PathLike[str] | Recipe | None,
    options: Mapping[str, Any],
    plugins: PluginRegistry | None,
) -> tuple[Recipe, PluginRegistry, RecipePlugins]:
    """The recipe, the registry and the plugins that the recipe names."""
    resolved = load_recipe(recipe, **options)
    registry = plugins or installed_plugins()
    # Before torch is imported, which takes seconds: a misspelt name should fail at once.
    recipe_plugins = find_plugins(resolved, registry)
    require("torch", "timm", what=f"distillkit {verb}")
    return resolved, registry, recipe_plugins


@contextmanager
def _progress_observers(*, enabled: bool) -> Iterator[list[object]]:
    """The observer that shows progress on stderr, if enabled."""
    with closing(ProgressDisplay()) as display:
        yield [RunProgress(display)] if enabled else []


def _text(value: Any) -> Any:
    """A path as a string; any other value unchanged."""
    return os.fspath(value) if isinstance(value, PathLike) else value
