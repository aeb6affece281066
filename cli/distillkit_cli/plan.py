"""`distillkit plan`: show what a run would do, without weights and without training."""

from __future__ import annotations

from typing import Annotated

import typer

from distillkit_cli.options import JSON, RecipeOptions, TeachingOptions, flattened
from distillkit_cli.terminal import Terminal


@flattened
def plan(
    context: typer.Context,
    *,
    teaching: TeachingOptions,
    recipe: RecipeOptions,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show what a run would do: models, signals, loss, batch, steps, cost. Loads no weights.

    Takes the options of `distillkit run`, and refuses what cannot run.

    For example:
      distillkit plan --data imagenet/ --teacher regnety16gf --loss hard
      distillkit plan --recipe deit-s --data imagenet/ --json
    """
    from distillkit_cli import starting

    terminal: Terminal = context.obj
    resolved = recipe.resolved(teaching)
    if as_json:
        from distillkit import api

        made = api.plan(resolved)
        from distillkit.planning.render import plan_as_dict

        terminal.show_json(plan_as_dict(made))
    else:
        starting.show_plan(terminal, resolved)
