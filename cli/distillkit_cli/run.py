"""`distillkit run`: train a student."""

from __future__ import annotations

import typer

from distillkit_cli.options import ModelOptions, RecipeOptions, StartOptions, flattened, given_options
from distillkit_cli.terminal import Terminal


@flattened
def run(context: typer.Context, *, models: ModelOptions, recipe: RecipeOptions, start: StartOptions) -> None:
    """Train a student. Writes a run directory with weights, metrics and a report.

    Without options, a small DeiT learns scikit-learn's digits, offline, in about 20 seconds. Without --data, a teacher
    of ImageNet's classes teaches ten of them (imagenette, downloaded once), and run:DIR the data of that run.

    For example:
      distillkit run --teacher regnety16gf --loss hard
      distillkit run --labels 100 --teacher run:runs/teacher --loss soft:tau=2
      distillkit run --from runs/a --set student.image_size=384

    Ctrl-C and SIGTERM finish the current step, save a checkpoint and print how to continue (exit codes 130 and 143).
    Press Ctrl-C twice to stop at once.

    On several machines: torchrun ... --no-python distillkit run ...
    """
    from distillkit_cli import starting

    terminal: Terminal = context.obj
    starting.start_command(terminal, start, recipe, given_options(models), lambda: recipe.resolved(models))
