"""Train several students in one pass over the data, or continue them, each in its own run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distillkit.errors import RunInterrupted
from distillkit.messages.text import command, counted
from distillkit.planning.one_pass import check_one_pass
from distillkit.recipe.files import load_recipe
from distillkit.running.directory import RunDirectory
from distillkit.running.prepared import (
    PreparedRun,
    State,
    joined_processes,
    prepare_continued,
    prepare_new,
    train_prepared,
)
from distillkit.running.training_run import RunResult

if TYPE_CHECKING:
    from distillkit.compute.distributed import Processes
    from distillkit.planning.preflight import CheckedRecipe
    from distillkit.plugin.registry import PluginRegistry
    from distillkit.recipe.schema import Recipe


@dataclass(frozen=True)
class Request:
    """A run to train: its recipe, the result of `check_recipe`, and observers as for `start.run`."""

    recipe: Recipe
    checked: CheckedRecipe | None = None
    observers: Sequence[object] = ()


def run_together(
    requests: Mapping[Path, Request], plugins: PluginRegistry, *, resume: bool = False
) -> dict[Path, RunResult | Exception]:
    """Train one student per run directory in one pass over the data; see `api.run_together`.

    Returns the result of each run, or the error with which it left.
    Raises: RecipeError if the runs cannot share a pass; RunInterrupted after a stop signal, once all are saved;
    otherwise as `start.run` and `start.resume`, before any run starts.
    """
    states: dict[Path, State] = {
        path: "started" if resume and RunDirectory(path).recipe.is_file() else "new" for path in requests
    }
    first = next(iter(requests.values())).recipe
    with joined_processes(first, states) as processes:
        finished: dict[Path, RunResult | Exception] = {}
        prepared: dict[Path, PreparedRun] = {}
        for path, request in requests.items():
            directory = RunDirectory(path)
            if states[path] == "new":
                prepared[path] = prepare_new(
                    request.recipe, path, plugins, request.checked, request.observers, processes
                )
            elif processes.broadcast("finished" if directory.result.is_file() else ""):
                directory.changed_settings(request.recipe)  # for its error
                finished[path] = _read_result(directory)
            else:
                prepared[path] = _continued(request, directory, plugins, processes)
        if prepared:
            check_one_pass({str(path): each.plan for path, each in prepared.items()})
            outcomes = train_prepared(list(prepared.values()), processes)
            finished |= dict(zip(prepared, outcomes, strict=True))
        interrupted = [outcome for outcome in finished.values() if isinstance(outcome, RunInterrupted)]
        if interrupted:
            raise _interrupted(interrupted, next(iter(prepared)), processes)
    return {path: finished[path] for path in requests}


def _continued(request: Request, directory: RunDirectory, plugins: PluginRegistry, processes: Processes) -> PreparedRun:
    """A run that was started with the same recipe, apart from settings that may change."""
    changed = directory.changed_settings(request.recipe)
    settings = {key: now for key, (_, now) in changed.items()}
    recipe = load_recipe(directory.read_unfinished_recipe(), plugins=plugins, **settings)
    return prepare_continued(recipe, directory, plugins, changed, request.observers, processes)


def _read_result(directory: RunDirectory) -> RunResult:
    """The result of a finished run.

    Raises: RunDirectoryError where result.json is damaged.
    """
    result = directory.read_result()
    skipped = result.get("incidents", {}).get("skipped_steps", 0)
    return RunResult(directory.path, result["figures"], result.get("steps", 0), skipped=skipped)


def _interrupted(stopped: Sequence[RunInterrupted], example: Path, processes: Processes) -> RunInterrupted:
    """The interrupt of all runs. The message of each alone, with the command that continues it, is in its metrics."""
    alone = command("distillkit", "run", "--resume", example)
    return RunInterrupted(
        f"{str(stopped[0]).partition(';')[0]}; a checkpoint of each of the {counted(len(stopped), 'run')} is saved; to "
        f"continue: the same call with resume=True, or each alone: {alone}{processes.nproc_option}",
        signal_number=stopped[0].exit_code - 128,
    )
