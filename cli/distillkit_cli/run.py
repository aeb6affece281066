"""`distillkit run`: teach a student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillkit_cli.options import DRY_RUN, OUT, RUN, RecipeOptions, TeachingOptions, flattened, given_options
from distillkit_cli.terminal import Terminal

RESUME = typer.Option(metavar="DIR", help="Continue the run in DIR from its newest checkpoint.", rich_help_panel=RUN)
AUTO_RESUME = typer.Option(
    "--auto-resume",
    help="Start the run in --out, or continue it if it was begun; for schedulers that queue a job again.",
    rich_help_panel=RUN,
)


@flattened
def run(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    teaching: TeachingOptions,
    recipe: RecipeOptions,
    out: Annotated[Path | None, OUT] = None,
    resume: Annotated[Path | None, RESUME] = None,
    auto_resume: Annotated[bool, AUTO_RESUME] = False,
    dry_run: Annotated[bool, DRY_RUN] = False,
) -> None:
    """Teach a student, and leave a directory with its weights, its figures and a report.

    Without options a small DeiT learns scikit-learn's digits, offline, in seconds.

    For example:
      distillkit run --data flowers/ --teacher run:runs/teacher --loss hard
      distillkit run --labels 100 --teacher run:runs/teacher --loss soft:tau=2
      distillkit run --from runs/a --set student.image_size=384

    Ctrl-C and SIGTERM end the step, save it and say how to continue (exit codes 130 and 143); twice, at once.
    """
    from distillkit_cli import starting

    terminal: Terminal = context.obj
    if resume is None:
        if auto_resume and out is None:
            raise typer.BadParameter("give the run's directory with --out", param_hint="--auto-resume")
        if auto_resume and out is not None and not dry_run:
            starting.start_or_resume(terminal, recipe.resolved(teaching), out)
        else:
            starting.start(terminal, recipe.resolved(teaching), out, dry_run=dry_run)
        return
    others = given_options(teaching, recipe) + ["--out"] * (out is not None) + ["--dry-run"] * dry_run
    others += ["--auto-resume"] * auto_resume
    if others:
        raise typer.BadParameter(
            f"a run continues as it was begun; leave out {', '.join(others)}", param_hint="--resume"
        )
    starting.resume(terminal, resume)
