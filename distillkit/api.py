"""What `import distillkit` offers to a script: plan, train, resume and evaluate, and open what a run leaves behind."""

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

# torch takes seconds to import, so what needs it is imported where it is called.
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
    """Match everything that a recipe names: models, signals, losses, data, steps, cost. Loads no weights.

    `recipe` and `options` are those of `load_recipe`. `plugins` are the installed ones where not given.

    Raises: RecipeError, PluginError, DataError, ClassSpaceError or SignalError for what cannot run.

    For example:
        >>> made = distillkit.plan("digits", loss="ce", training={"steps": 10})
        >>> made.steps, made.student.spec.parameters
        (10, 205012)
    """
    resolved, registry, found = _checked("plan", recipe, options, plugins)
    from distillkit.running import start

    return start.plan(resolved, registry, found)


def run(
    recipe: str | PathLike[str] | Recipe | None = None,
    out: str | PathLike[str] | None = None,
    *,
    progress: bool = False,
    plugins: PluginRegistry | None = None,
    observers: Sequence[object] = (),
    **options: Any,
) -> RunResult:
    """Train a student. Nothing is written before models, weights and data are known to work.

    `recipe` and `options` are those of `load_recipe`. `out` is a new directory; the next free
    `runs/<student>-<data>-<number>` where not given. `progress` shows the progress of the run on stderr. `observers`
    are objects with life-cycle hooks (`docs/reference/hooks.md`), `plugins` the installed ones where not given.

    Returns where the run is (`directory`) and what the student achieves (`figures`): accuracies in percent as
    `test/top1`, and others that `result.json` has.

    Raises: RunDirectoryError where `out` holds something already; what `plan` raises; WeightsError; TrainingError where
    training fails; RunInterrupted where SIGTERM or Ctrl-C asked for an end, once the step is saved; UserError where
    loader processes would run the script again, since it has no `if __name__ == "__main__":`.

    For example:
        >>> result = distillkit.run("digits", "runs/first", loss="ce", training={"steps": 10})
        >>> result.steps, "test/top1" in result.figures
        (10, True)
    """
    refuse_while_importing()
    resolved, registry, found = _checked("run", recipe, options, plugins)
    from distillkit.running import start

    directory = next_directory(resolved) if out is None else Path(out)
    with _shown(progress=progress) as shown:
        return start.run(resolved, directory, registry, found, observers=[*shown, *observers])


def resume(
    directory: str | PathLike[str],
    *,
    progress: bool = False,
    plugins: PluginRegistry | None = None,
    observers: Sequence[object] = (),
) -> RunResult:
    """Continue a run from its newest checkpoint, or from the start where it has none; exact on one kind of device.

    `progress`, `plugins`, `observers` and what is returned are those of `run`.

    Raises: RunDirectoryError where `directory` is no run, or is finished; CheckpointError; otherwise as `run`.

    For example:
        >>> distillkit.resume("runs/stopped").steps
        10
    """
    refuse_while_importing()
    require("torch", "timm", what="distillkit run")
    from distillkit.running import start

    with _shown(progress=progress) as shown:
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
    """Evaluate a model by a protocol. The result of a run is also appended to its `evaluations.jsonl`.

    `target` is a run directory, a student in it (`RUN/best`, `RUN/ema`), or the name of a teacher. `protocol` is top1,
    knn, linear, few-label or another evaluator that is installed, and `options` are its own, such as `k=[20]`.
    `data` and `split` (train, validation or test) are the run's data and its test images where not given. Images that
    cannot be read are left out and counted; with `strict_data` they are an error. `weights` is a weight file for a
    teacher, `device` one of auto, cpu, cuda, cuda:1, mps.

    Returns what was measured: `figures` in percent by name, and `images`, how many there were; more in `measurement`.

    Raises: RunDirectoryError for a target that is neither; SignalError where the model does not reveal what the
    protocol reads; DataError where the data lacks the split or its labels; RecipeError for a wrong option; UserError
    as `run`.

    For example:
        >>> found = distillkit.evaluate("runs/first", split="validation", head="class")
        >>> found.figures["images"]
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
    """Open the student of a run as a `torch.nn.Module`, on the CPU and in evaluation mode.

    `path` is a run directory, whose student is that after the last step, or a student in it: `RUN/best`, `RUN/ema`.

    Shapes: `student(images)` takes images [B, C, H, W], float32, normalised as `student.spec` says, and returns the
    logits [B, K] of the head with which the run was evaluated, both heads fused where it was; a student whose class
    head no loss trained returns its embedding [B, D].

    `student.spec` describes it: `image_size` (height, width), `mean`, `std`, `crop`, `interpolation`, `classes`, and
    `class_names` where they are known. `student.preprocess` makes a tensor [C, H, W] of a PIL image of any mode, as in
    the evaluation of the run. `student.network` is the network alone.

    Raises: RunDirectoryError for a directory without a student; WeightsError where its weights do not fit; PluginError
    where its plugin is not installed.

    For example:
        >>> student = distillkit.load_student("runs/first")
        >>> student(torch.zeros(2, 3, *student.spec.image_size)).shape
        torch.Size([2, 10])
    """
    require("torch", "timm", what="distillkit.load_student")
    from distillkit.evaluation.loaded_student import LoadedStudent
    from distillkit.evaluation.open_model import open_student

    return LoadedStudent(open_student(Path(path), plugins or installed_plugins())).eval()


def _checked(
    verb: str,
    recipe: str | PathLike[str] | Recipe | None,
    options: Mapping[str, Any],
    plugins: PluginRegistry | None,
) -> tuple[Recipe, PluginRegistry, RecipePlugins]:
    """The recipe and its plugins, found before torch is imported, which takes seconds."""
    resolved = load_recipe(recipe, **options)
    registry = plugins or installed_plugins()
    found = find_plugins(resolved, registry)
    require("torch", "timm", what=f"distillkit {verb}")
    return resolved, registry, found


@contextmanager
def _shown(*, progress: bool) -> Iterator[list[object]]:
    """The observer that shows a run on stderr, where it is wanted."""
    with closing(ProgressDisplay()) as display:
        yield [RunProgress(display)] if progress else []


def _text(value: Any) -> Any:
    """A path as text; everything else as it is."""
    return os.fspath(value) if isinstance(value, PathLike) else value
