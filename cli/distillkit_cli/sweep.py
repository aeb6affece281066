"""`distillkit sweep`: many runs over recipe keys, from a grid or from a search."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from distillkit.errors import RunInterrupted, UserError
from distillkit.messages.text import command, counted
from distillkit_cli.figures import figure_rows
from distillkit_cli.options import JSON, ModelOptions, RecipeOptions, flattened
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.sweeping.result import SweepResult, SweepRow
    from distillkit.sweeping.search_sweep import SearchSweep
    from distillkit.sweeping.sweep import SweepRequest

FAILED = 1
LONGEST_NUMBER = 8

SWEEP = "Sweep"
GRID = typer.Option(
    metavar="KEY=VALUE,VALUE",
    help="Values of a recipe key, such as loss=hard,soft:tau=2 or optimizer.lr=1e-3,3e-4; may be repeated, for all "
    "combinations. KEY,KEY=[VALUE,VALUE],... changes keys together.",
    rich_help_panel=SWEEP,
)
OUT = typer.Option(metavar="DIR", help="Folder of the sweep, with a run directory per arm.", rich_help_panel=SWEEP)
SEARCH = typer.Option(
    metavar="KEY=LOW..HIGH[:log]",
    help="Search instead of a grid: a range of a recipe key, such as optimizer.lr=1e-4..1e-2:log, student.depth=2..6 "
    "or student.drop_path=0..0.3:step=0.1, or a list of values; may be repeated. Needs the extra `tune`.",
    rich_help_panel=SWEEP,
)
TRIALS = typer.Option(
    metavar="N", min=1, help="Trials of a search. Default: sweep.trials of the recipe, else 20.", rich_help_panel=SWEEP
)
JOBS = typer.Option(
    metavar="N", min=1, help="Arms that run at once. Default: one per GPU, and one without.", rich_help_panel=SWEEP
)
ONE_PASS = typer.Option(
    "--one-pass",
    help="Train all arms in one process, with one pass over the images and the teachers; arms may differ in student, "
    "losses, optimiser and seed.",
    rich_help_panel=SWEEP,
)
LIST = typer.Option(
    "--list", help="Print the command of every arm that is not done, for a scheduler, and exit.", rich_help_panel=SWEEP
)
DRY_RUN = typer.Option("--dry-run", help="Plan all arms, show them and exit.", rich_help_panel=SWEEP)


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What a sweep runs, and how."""

    out: Annotated[Path | None, OUT] = None
    grid: Annotated[list[str] | None, GRID] = None
    search: Annotated[list[str] | None, SEARCH] = None
    trials: Annotated[int | None, TRIALS] = None
    jobs: Annotated[int | None, JOBS] = None
    one_pass: Annotated[bool, ONE_PASS] = False
    list_only: Annotated[bool, LIST] = False
    dry_run: Annotated[bool, DRY_RUN] = False
    as_json: Annotated[bool, JSON] = False


@flattened
def sweep(context: typer.Context, *, models: ModelOptions, recipe: RecipeOptions, sweep: SweepOptions) -> None:
    """Run many arms over recipe keys, several at once, each in a run directory of its own.

    Accepts the options of `distillkit run`, and a recipe with a table sweep.grid or sweep.search. All arms are planned
    before the first one starts. The same command continues a sweep that was stopped or killed: arms that are done are
    not repeated, and half-done ones are resumed. Exit codes: 0 all arms ended well, 1 some failed.

    For example:
      distillkit sweep --grid loss=hard,soft --grid seed=0,1,2 --out sweeps/a
      distillkit sweep --recipe sweep.toml --out sweeps/b --jobs 2
      distillkit sweep --search optimizer.lr=1e-4..1e-2:log --out sweeps/c
    """
    from distillkit.plugin.registry import installed_plugins
    from distillkit.sweeping.search_sweep import SearchSweep
    from distillkit.sweeping.sweep import plan_sweep, run_sweep

    terminal: Terminal = context.obj
    request, plugins = _request(recipe.for_load_recipe(models), sweep), installed_plugins()
    planned = plan_sweep(request, plugins)
    if sweep.list_only or sweep.dry_run:
        if isinstance(planned, SearchSweep):
            terminal.show_rows(_search_rows(planned))
        else:
            _show_plan(terminal, planned.result(), commands=sweep.list_only, as_json=sweep.as_json)
        return
    try:
        with closing(terminal.progress()) as display:
            again = command("distillkit", *terminal.arguments)
            result = run_sweep(request, planned, plugins, display, again=again)
    except RunInterrupted as stopped:
        terminal.note(str(stopped))
        raise typer.Exit(stopped.exit_code) from None
    _show(terminal, result, as_json=sweep.as_json)
    if request.axes:
        _compare(terminal, result, silent=sweep.as_json)
    failed = result.in_state("failed")
    if failed:
        terminal.note(f"{len(failed)} of {counted(len(result.arms), 'arm')} failed")
        raise typer.Exit(FAILED)


def _request(options: Mapping[str, Any], sweep: SweepOptions) -> SweepRequest:
    """What the options and the recipe's table ask for.

    Raises: UserError.
    """
    from distillkit.sweeping.search_space import space_of
    from distillkit.sweeping.sweep import SweepRequest
    from distillkit.sweeping.sweep_table import merged_axes, read_sweep_table

    if sweep.out is None:
        raise UserError("a sweep needs --out DIR, the folder of its run directories")
    table = read_sweep_table(options["recipe"])
    space = space_of(table.search, sweep.search or [])
    if sweep.trials is not None:
        if not space:
            raise UserError("--trials is for a search; leave it out, or give --search KEY=LOW..HIGH instead of a grid")
        table = table.model_copy(update={"trials": sweep.trials})
    if sweep.list_only and space:
        raise UserError("--list needs a grid: a search chooses each trial by the trials before it")
    if sweep.list_only and (sweep.dry_run or sweep.as_json):
        option = "--dry-run" if sweep.dry_run else "--json"
        raise UserError(f"--list prints one command per line; leave out {option}, or --list")
    if sweep.list_only and sweep.one_pass:
        raise UserError("--list prints commands that run on their own; leave out --one-pass")
    axes = merged_axes(table.grid, sweep.grid or [])
    return SweepRequest(sweep.out, options, axes, space, table, jobs=sweep.jobs, one_pass=sweep.one_pass)


def _show_plan(terminal: Terminal, result: SweepResult, *, commands: bool, as_json: bool) -> None:
    """Show the arms of a grid, or the commands of those that are not done."""
    if not commands:
        _show(terminal, result, as_json=as_json)
        return
    for arm in result.arms:
        if arm.state != "done":
            terminal.show(arm.command)


def _search_rows(planned: SearchSweep) -> list[tuple[str, str]]:
    """The plan of a search."""
    from distillkit.sweeping.halving import rungs

    settings = planned.settings
    epochs = [str(rung) for rung in rungs(settings.first_rung, settings.keep, settings.last_epoch)]
    compared = f"after epoch {', '.join(epochs)}; one of {settings.keep} continues" if epochs else "never"
    return [
        *planned.space.items(),
        ("trials", f"{planned.trials} of {settings.last_epoch} epochs"),
        ("compared", compared),
    ]


def _show(terminal: Terminal, result: SweepResult, *, as_json: bool) -> None:
    """Show one row per arm, or JSON."""
    if as_json:
        terminal.show_json(result.as_dict())
        return
    # A trial is named by its number, an arm of a grid by what it sets.
    keys = list(dict.fromkeys(key for arm in result.arms for key in arm.settings)) if result.is_search else []
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("arm", *keys, "state", "validation", "test", "time", "why"):
        is_number = heading in {"validation", "test", "time"}
        table.add_column(heading, overflow="fold", justify="right" if is_number else "left")
    for arm in result.arms:
        values = (_short(arm.settings.get(key, "")) for key in keys)
        table.add_row(arm.name, *values, arm.state, *_figures(arm), arm.why)
    terminal.show_table(table)
    best = next((arm for arm in result.arms if arm.name == result.best), None)
    if best is not None:
        found = ", ".join(f"{key} {text}" for key, text in best.settings.items())
        terminal.show("")
        rows = [("best", f"{best.name}: {found}"), ("run", str(best.directory))]
        terminal.show_rows([*rows, *figure_rows(best.figures)])


def _compare(terminal: Terminal, result: SweepResult, *, silent: bool) -> None:
    """Compare the finished arms, and write the page to the folder of the sweep."""
    from distillkit import api
    from distillkit_cli.compare import show_comparison

    done = [arm.directory for arm in result.in_state("done")]
    if not done:
        return
    failed = {str(arm.directory): f"failed: {arm.why}" for arm in result.in_state("failed")}
    try:
        comparison = api.compare(done, left_out=failed)
    except UserError as error:  # such as arms that were measured on different images
        terminal.note(f"the arms are not compared: {error}")
        return
    written = comparison.write(result.directory)
    if not silent:
        terminal.show("")
        show_comparison(terminal, comparison)
    terminal.note(f"written to {result.directory}: {', '.join(path.name for path in written)}")


def _short(text: str) -> str:
    """A value in a column: a number with four digits, for which OUT/study.db has all of them.

    >>> _short("0.0012520653814999472"), _short("4"), _short("adamw")
    ('0.001252', '4', 'adamw')
    """
    try:
        return text if len(text) <= LONGEST_NUMBER else f"{float(text):.4g}"
    except ValueError:
        return text


def _figures(arm: SweepRow) -> tuple[str, str, str]:
    accuracies = [arm.figures.get(f"{split}/top1") for split in ("validation", "test")]
    validation, test = ("" if value is None else f"{value:.2f} %" for value in accuracies)
    return validation, test, "" if arm.duration_s is None else str(timedelta(seconds=round(arm.duration_s)))
