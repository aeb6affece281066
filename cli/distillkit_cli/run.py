"""`distillkit run`: train a student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillkit.errors import UserError
from distillkit_cli.options import DRY_RUN, OUT, RUN, ModelOptions, RecipeOptions, flattened, given_options
from distillkit_cli.terminal import Terminal

RESUME = typer.Option(metavar="DIR", help="Continue the run in DIR from its newest checkpoint.", rich_help_panel=RUN)
AUTO_RESUME = typer.Option(
    "--auto-resume",
    help="Start the run in --out, or continue it if it exists; for schedulers that requeue jobs.",
    rich_help_panel=RUN,
)
NPROC = typer.Option(
    "--nproc", metavar="N", min=1, help="Train with N processes on this machine, one per GPU.", rich_help_panel=RUN
)


@flattened
def run(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    models: ModelOptions,
    recipe: RecipeOptions,
    out: Annotated[Path | None, OUT] = None,
    resume: Annotated[Path | None, RESUME] = None,
    auto_resume: Annotated[bool, AUTO_RESUME] = False,
    nproc: Annotated[int, NPROC] = 1,
    dry_run: Annotated[bool, DRY_RUN] = False,
) -> None:
    """Train a student. Writes a run directory with weights, metrics and a report.

    Without options, a small DeiT learns scikit-learn's digits, offline, in about 20 seconds.

    For example:
      distillkit run --data flowers/ --teacher run:runs/teacher --loss hard
      distillkit run --labels 100 --teacher run:runs/teacher --loss soft:tau=2
      distillkit run --from runs/a --set student.image_size=384

    Ctrl-C and SIGTERM finish the current step, save a checkpoint and print how to continue (exit codes 130 and 143).
    Press Ctrl-C twice to stop at once.

    On several machines: torchrun ... -m distillkit_cli run ...
    """
    from distillkit_cli import starting
    from distillkit_cli.launching import was_restarted

    terminal: Terminal = context.obj
    if auto_resume and out is None:
        raise UserError("--auto-resume needs --out DIR")
    if resume is not None:
        conflicting = given_options(models, recipe) + ["--out"] * (out is not None) + ["--dry-run"] * dry_run
        conflicting += ["--auto-resume"] * auto_resume
        if conflicting:
            raise typer.BadParameter(
                f"a run continues with its own recipe; leave out {', '.join(conflicting)}", param_hint="--resume"
            )
    if nproc > 1 and not dry_run:
        starting.launch(terminal, None if resume else recipe.resolved(models), out, processes=nproc)
    elif resume is not None:
        starting.resume(terminal, resume)
    elif out is not None and not dry_run and (auto_resume or was_restarted()):
        starting.start_or_resume(terminal, recipe.resolved(models), out)
    else:
        starting.start(terminal, recipe.resolved(models), out, dry_run=dry_run)
