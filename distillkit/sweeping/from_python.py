"""`distillkit.sweep`: a sweep from a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Any

from distillkit.compute.main_guard import refuse_while_importing
from distillkit.errors import RecipeError
from distillkit.messages.progress import ProgressDisplay
from distillkit.plugin.registry import installed_plugins
from distillkit.sweeping.grid import axes_of_table
from distillkit.sweeping.python_options import typed_options
from distillkit.sweeping.result import SweepResult
from distillkit.sweeping.search_space import space_of
from distillkit.sweeping.sweep import SweepRequest, plan_sweep, run_sweep
from distillkit.sweeping.sweep_table import read_sweep_table


def sweep(  # noqa: PLR0913 - one parameter per option of the verb
    recipe: str | PathLike[str] | None = None,
    out: str | PathLike[str] = "sweep",
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    search: Mapping[str, str | Sequence[Any]] | None = None,
    trials: int | None = None,
    jobs: int | None = None,
    one_pass: bool = False,
    progress: bool = False,
    **options: Any,
) -> SweepResult:
    """Run many arms over recipe keys, several at once, each in a run directory of its own in the folder `out`.

    `grid` has a list of values per key, such as `{"loss": ["hard", "soft:tau=2"], "seed": [0, 1, 2]}`; the arms are all
    combinations. `search` has a range or a list per key, such as `{"optimizer.lr": "1e-4..1e-2:log"}`, of which Optuna
    chooses `trials`. Without either, they are those of the table `[sweep]` of the recipe file. `recipe` is a name or a
    file, and `options` are those of `load_recipe`. `jobs` arms run at once, each in its own process, by default one per
    GPU. With `one_pass` all arms of a grid train together in this process. The same call continues a sweep that was
    stopped or killed.

    Returns the arms in order, each with `name`, `settings`, `directory`, `state` ("done", "failed" or "pruned"), `why`
    and `figures`; `best` names the best trial of a search. `distillkit.compare(out)` compares the arms of a grid.

    Raises: RunDirectoryError if `out` is something else; RecipeError and the errors of `plan` with everything that is
    wrong, before the first arm starts; RunInterrupted on SIGTERM or Ctrl-C, after the arms have saved a checkpoint;
    MissingExtraError for a search without Optuna.

    For example:
        >>> result = distillkit.sweep("digits", "sweeps/a", grid={"seed": [0, 1]}, loss="ce", training={"steps": 10})
        >>> [(arm.name, arm.state) for arm in result.arms]
        [('seed=0', 'done'), ('seed=1', 'done')]
    """
    refuse_while_importing()
    typed = typed_options(recipe, options)
    table = read_sweep_table(typed.get("recipe"))
    if grid is not None or search is not None:
        axes, space = axes_of_table(grid or {}), space_of(search or {}, [])
    else:
        axes, space = axes_of_table(table.grid), space_of(table.search, [])
    if trials is not None:
        if not space:
            raise RecipeError("trials is for a search; leave it out, or give search instead of grid")
        table = table.model_copy(update={"trials": trials})
    request = SweepRequest(Path(out), typed, axes, space, table, jobs=jobs, one_pass=one_pass)
    plugins = installed_plugins()
    planned = plan_sweep(request, plugins)
    with closing(ProgressDisplay(silent=not progress)) as display:
        return run_sweep(request, planned, plugins, display, again="the same call")
