"""Plan and run a sweep, whether it is a grid or a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.errors import RecipeError
from distillkit.messages.progress import ProgressDisplay
from distillkit.plugin.registry import PluginRegistry
from distillkit.sweeping.arm_recipes import check_keys
from distillkit.sweeping.grid import EXAMPLE, GridAxis, arms_of
from distillkit.sweeping.grid_sweep import GridSweep, plan_grid, run_grid
from distillkit.sweeping.one_pass_sweep import check_one_pass_sweep, run_one_pass
from distillkit.sweeping.result import SweepResult
from distillkit.sweeping.search_sweep import SearchSweep, plan_search, run_search
from distillkit.sweeping.sweep_table import SweepTable


@dataclass(frozen=True)
class SweepRequest:
    """What a sweep varies: the axes of a grid, or the space of a search, whose other settings are in `table`.

    `options` are those of `load_recipe` that all arms share. `jobs` arms run at once, by default one per GPU; with
    `one_pass` they train together in this process.
    """

    out: Path
    options: Mapping[str, Any]
    axes: Sequence[GridAxis]
    space: Mapping[str, str]
    table: SweepTable
    jobs: int | None = None
    one_pass: bool = False


def plan_sweep(request: SweepRequest, plugins: PluginRegistry) -> GridSweep | SearchSweep:
    """Check a sweep and plan its arms, or the ends of the ranges of a search. Writes nothing.

    Raises: RecipeError for options that contradict each other; as `plan_grid` and `plan_search`.
    """
    check_keys([key for axis in request.axes for key in axis.keys], request.options, "--grid")
    check_keys(list(request.space), request.options, "--search")
    if request.axes and request.space:
        raise RecipeError("a sweep has a grid or a search, and both are given; leave one of them out")
    if not request.axes and not request.space:
        raise RecipeError(f"a sweep needs --grid or --search, or a recipe with a table [sweep]; {EXAMPLE}")
    if request.one_pass and request.jobs is not None:
        raise RecipeError("--one-pass trains all arms in one process; leave out --jobs")
    if request.one_pass and request.space:
        raise RecipeError(
            "--one-pass needs a grid: a search chooses each trial by the trials before it; leave out --one-pass"
        )
    if request.space:
        return plan_search(request.out, request.options, request.space, request.table, plugins)
    planned = plan_grid(request.out, request.options, arms_of(request.axes), plugins)
    if request.one_pass:
        check_one_pass_sweep(planned)
    return planned


def run_sweep(
    request: SweepRequest,
    planned: GridSweep | SearchSweep,
    plugins: PluginRegistry,
    display: ProgressDisplay,
    *,
    again: str,
) -> SweepResult:
    """Run what is left of a planned sweep. `again` is how it continues after a stop signal, for the message.

    Raises: RunDirectoryError where another process sweeps there; RunInterrupted after a stop signal.
    """
    if isinstance(planned, SearchSweep):
        return run_search(planned, jobs=request.jobs, display=display, again=again)
    if request.one_pass:
        return run_one_pass(planned, plugins, display=display, again=again)
    return run_grid(planned, jobs=request.jobs, display=display, again=again)
