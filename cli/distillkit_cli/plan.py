"""`distillkit plan`: show what a run would do, without weights and without training."""

from __future__ import annotations

from typing import Annotated

import typer

from distillkit_cli.options import JSON, ModelOptions, RecipeOptions, flattened
from distillkit_cli.terminal import Terminal


@flattened
def plan(
    context: typer.Context,
    *,
    models: ModelOptions,
    recipe: RecipeOptions,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show what a run would do: models, signals, loss, batch, steps, cost. Loads no weights.

    Accepts the options of `distillkit run`. Fails if the run could not start.

    For example:
      distillkit plan --data imagenet/ --teacher regnety16gf --loss hard
      distillkit plan --recipe deit-s --data imagenet/ --json
    """
    from distillkit_cli import starting

    terminal: Terminal = context.obj
    resolved = recipe.resolved(models)
    if as_json:
        from distillkit import api

        planned = api.plan(resolved)
        # Imported after api.plan, which reports a missing torch with the extra to install.
        from distillkit.planning.render import plan_as_dict

        terminal.show_json(plan_as_dict(planned))
    else:
        starting.show_plan(terminal, resolved)
