"""`distillkit plan`: show what a run would do, without weights and without training."""

from __future__ import annotations

from typing import Annotated

import typer

from distillkit_cli.options import JSON, ModelOptions, RecipeOptions, flattened
from distillkit_cli.terminal import Terminal

TIME = typer.Option(
    "--time", help="Measure teacher and student here, instead of a lower bound from one matrix product."
)


@flattened
def plan(
    context: typer.Context,
    *,
    models: ModelOptions,
    recipe: RecipeOptions,
    measured: Annotated[bool, TIME] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show what a run would do: models, signals, loss, batch, steps, cost. Loads no weights.

    Accepts the options of `distillkit run`. Fails if the run could not start.

    For example:
      distillkit plan --teacher regnety16gf --loss hard
      distillkit plan --recipe deit-s --data imagenet/ --json
      distillkit plan --teacher regnety16gf --loss hard --bank bank/ --time
    """
    from distillkit_cli import starting

    terminal: Terminal = context.obj
    resolved = recipe.resolved(models)
    if as_json:
        planned = starting.make_plan(terminal, resolved)
        # Imported after `make_plan`, which reports a missing torch with the extra to install.
        from distillkit.planning.render import plan_as_dict

        terminal.show_json(plan_as_dict(planned))
    else:
        starting.show_plan(terminal, resolved, measured=measured)
