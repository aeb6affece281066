"""Start or continue a run: shared by `run`, `plan` and `finetune`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from distillkit import api
from distillkit.compute.deferred_dynamo import deferred_dynamo
from distillkit.errors import UserError
from distillkit.messages.text import command
from distillkit.planning.preflight import check_new_run
from distillkit.plugin.extras import require
from distillkit.plugin.registry import installed_plugins
from distillkit.running.default_directory import next_directory
from distillkit_cli.figures import figure_rows
from distillkit_cli.options import RecipeOptions, StartOptions, given_options
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.planning.plan import Plan
    from distillkit.recipe.schema import Recipe
    from distillkit.running.progress import RunProgress
    from distillkit.running.training_run import RunResult


RESUME_OPTIONS = ("--device", "--set")
"""Options that may change settings of a run that is resumed."""


def start_command(
    terminal: Terminal,
    options: StartOptions,
    recipe: RecipeOptions,
    models: Sequence[str],
    resolved: Callable[[], Recipe],
) -> None:
    """Start, resume or plan a run, as `distillkit run` and `finetune` do.

    `models` are the given options that name models; `resolved` returns the recipe of all options.
    Raises: UserError, typer.BadParameter for options that contradict each other.
    """
    from distillkit_cli.launching import was_restarted

    out, resumed, dry_run = options.out, options.resume, options.dry_run
    if options.auto_resume and out is None:
        raise UserError("--auto-resume needs --out DIR")
    if resumed is not None:
        conflicting = [*models, *(name for name in given_options(recipe) if name not in RESUME_OPTIONS)]
        conflicting += ["--out"] * (out is not None) + ["--dry-run"] * dry_run + ["--auto-resume"] * options.auto_resume
        if conflicting:
            raise typer.BadParameter(
                f"a run continues with its own recipe; leave out {', '.join(conflicting)}", param_hint="--resume"
            )
    if options.nproc > 1 and not dry_run:
        launch(terminal, None if resumed else resolved(), out, processes=options.nproc)
    elif resumed is not None:
        resume(terminal, resumed, {"assignments": recipe.settings or (), "device": recipe.device})
    elif out is not None and not dry_run and (options.auto_resume or was_restarted()):
        start_or_resume(terminal, resolved(), out)
    else:
        start(terminal, resolved(), out, dry_run=dry_run)


def start(terminal: Terminal, recipe: Recipe, out: Path | None, *, dry_run: bool) -> None:
    """Run a recipe and show its result, or show only its plan."""
    if dry_run:
        show_plan(terminal, recipe)
        return
    directory = out or next_directory(recipe)
    _follow(terminal, directory, lambda progress: api.run(recipe, directory, observers=[progress]))


def start_or_resume(terminal: Terminal, recipe: Recipe, out: Path) -> None:
    """Start a run, or continue it if its directory holds the same recipe. If it is finished, show its result.

    Settings that may change on resume may differ; the run continues with the given ones.
    Raises: RunDirectoryError if the directory holds another recipe.
    """
    from distillkit.running.directory import RunDirectory

    directory = RunDirectory(out)
    if not directory.recipe.is_file():
        start(terminal, recipe, out, dry_run=False)
        return
    changed = directory.changed_settings(recipe)
    if directory.result.is_file():
        terminal.show_rows([("run", str(out)), *figure_rows(directory.read_result()["figures"])])
        return
    resume(terminal, out, {key: now for key, (_, now) in changed.items()})


def launch(terminal: Terminal, recipe: Recipe | None, out: Path | None, *, processes: int) -> None:
    """Start the same command in several processes; without `recipe` it resumes a run.

    Plugins, their options and the directory are checked here, so that an error is reported once.
    """
    from distillkit.running.directory import RunDirectory
    from distillkit_cli.launching import launch as launch_processes
    from distillkit_cli.launching import without_option

    require("torch", "timm", what="distillkit run")
    arguments = without_option(terminal.arguments, "--nproc")
    restart_arguments = list(arguments)
    if recipe is not None:
        check_new_run(recipe, installed_plugins())
        if out is None:
            arguments += ["--out", str(next_directory(recipe))]
        elif "--auto-resume" not in arguments:
            RunDirectory(out).check_free()
        restart_arguments = arguments if "--auto-resume" in arguments else [*arguments, "--auto-resume"]
    code = launch_processes(arguments, processes, restart_arguments=restart_arguments, note=terminal.note)
    if code:
        raise typer.Exit(code)


def resume(terminal: Terminal, directory: Path, settings: Mapping[str, Any]) -> None:
    """Continue the run in a directory, with changed `settings` as for `api.resume`, and show its result."""
    _follow(terminal, directory, lambda progress: api.resume(directory, observers=[progress], **settings))


def make_plan(terminal: Terminal, recipe: Recipe) -> Plan:
    """The plan of a recipe, for a command that only shows it; most of its time is spent on imports."""
    terminal.only_plans = True
    # Imports create many objects and little garbage; searching them all for it takes a sixth of the time.
    gc.disable()
    try:
        with deferred_dynamo():
            return api.plan(recipe)
    finally:
        gc.freeze()
        gc.unfreeze()  # all objects count as old now, so that the next search does not start with all of them
        gc.enable()


def show_plan(terminal: Terminal, recipe: Recipe, *, measured: bool = False) -> None:
    """Show the plan of a recipe: its matched plugins, its cost, and a lower bound on its time, or measured times."""
    plan = make_plan(terminal, recipe)
    if measured:
        from distillkit.planning.render import plan_lines
        from distillkit.running.step_times import measure_step_times, time_lines

        terminal.show_rows(plan_lines(plan, measured=time_lines(plan, measure_step_times(plan))))
        return
    # Imported after `make_plan`, which reports a missing torch with the extra to install.
    from distillkit.compute.devices import pick_device
    from distillkit.planning.cost import matmul_rate
    from distillkit.planning.render import plan_lines

    rate = matmul_rate(pick_device(recipe.training.device))
    terminal.show_rows(plan_lines(plan, matmul_flops_per_s=rate))


def _follow(terminal: Terminal, directory: Path, train: Callable[[RunProgress], RunResult]) -> None:
    """Show the progress of a run and its figures at the end. If interrupted, show how to continue it."""
    from distillkit.errors import RunInterrupted
    from distillkit.running.progress import RunProgress

    try:
        with closing(terminal.progress()) as display:
            result = train(RunProgress(display))
    except RunInterrupted as stopped:
        terminal.note(str(stopped))
        raise typer.Exit(stopped.exit_code) from None
    except KeyboardInterrupt:
        if (directory / "recipe.toml").is_file():
            terminal.note(f"stopped; to continue: {command('distillkit', 'run', '--resume', directory)}")
        raise
    rows = [("run", str(result.directory)), *figure_rows(result.figures)]
    if result.skipped:
        skipped = f"{result.skipped:,} of {result.steps:,} steps, because the loss or gradient was not finite"
        rows.append(("skipped", skipped))
    terminal.show_rows(rows)
