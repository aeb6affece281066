"""Start or continue a run: shared by `run`, `plan` and `finetune`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from distillkit import api
from distillkit.planning.names import find_plugins
from distillkit.plugin.extras import require
from distillkit.plugin.registry import installed_plugins
from distillkit.running.default_directory import next_directory
from distillkit_cli.figures import figure_rows
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.recipe.schema import Recipe
    from distillkit.running.progress import RunProgress
    from distillkit.running.training_run import RunResult


def start(terminal: Terminal, recipe: Recipe, out: Path | None, *, dry_run: bool) -> None:
    """Run a recipe and show its result, or show only its plan."""
    if dry_run:
        show_plan(terminal, recipe)
        return
    directory = out or next_directory(recipe)
    _follow(terminal, directory, lambda progress: api.run(recipe, directory, observers=[progress]))


def start_or_resume(terminal: Terminal, recipe: Recipe, out: Path) -> None:
    """Start a run, or continue it if its directory holds the same recipe. If it is finished, show its result.

    Raises: RunDirectoryError if the directory holds another recipe.
    """
    from distillkit.running.directory import RunDirectory

    directory = RunDirectory(out)
    if not directory.recipe.is_file():
        start(terminal, recipe, out, dry_run=False)
        return
    directory.require_recipe(recipe)
    if directory.result.is_file():
        terminal.show_rows([("run", str(out)), *figure_rows(directory.read_result()["figures"])])
        return
    resume(terminal, out)


def launch(terminal: Terminal, recipe: Recipe | None, out: Path | None, *, processes: int) -> None:
    """Start the same command in several processes; without `recipe` it resumes a run.

    Plugin names and the directory are checked here, so that an error is reported once.
    """
    from distillkit_cli.launching import launch as launch_processes
    from distillkit_cli.launching import without_option

    require("torch", "timm", what="distillkit run")
    arguments = without_option(terminal.arguments, "--nproc")
    restart_arguments = list(arguments)
    if recipe is not None:
        find_plugins(recipe, installed_plugins())
        if out is None:
            arguments += ["--out", str(next_directory(recipe))]
        restart_arguments = arguments if "--auto-resume" in arguments else [*arguments, "--auto-resume"]
    code = launch_processes(arguments, processes, restart_arguments=restart_arguments, note=terminal.note)
    if code:
        raise typer.Exit(code)


def resume(terminal: Terminal, directory: Path) -> None:
    """Continue the run in a directory and show its result."""
    _follow(terminal, directory, lambda progress: api.resume(directory, observers=[progress]))


def show_plan(terminal: Terminal, recipe: Recipe) -> None:
    """Show the plan of a recipe: its matched plugins, its cost, and a lower bound on its duration."""
    plan = api.plan(recipe)
    # Imported after api.plan, which reports a missing torch with the extra to install.
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
            terminal.note(f"stopped; to continue: distillkit run --resume {directory}")
        raise
    rows = [("run", str(result.directory)), *figure_rows(result.figures)]
    if result.skipped:
        skipped = f"{result.skipped:,} of {result.steps:,} steps, because the loss or gradient was not finite"
        rows.append(("skipped", skipped))
    terminal.show_rows(rows)
