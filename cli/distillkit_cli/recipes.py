"""`distillkit recipes`: the recipes that come with the package, or one of them whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from distillkit_cli.options import JSON
from distillkit_cli.terminal import Terminal

NAME = typer.Argument(metavar="NAME|FILE.toml", help="Show this one, whole, as TOML.")


def recipes(
    context: typer.Context, *, name: Annotated[str | None, NAME] = None, as_json: Annotated[bool, JSON] = False
) -> None:
    """List the named recipes, or show one with every key that is set, ready to be changed.

    A file of your own may begin with a line such as base = "deit-ti" and then say only what differs.

    For example:
      distillkit recipes
      distillkit recipes deit-ti > mine.toml
      distillkit run --recipe mine.toml --data flowers/
    """
    from distillkit.recipe_files import dump, load_recipe, named_recipes

    terminal: Terminal = context.obj
    if name is not None:
        recipe = load_recipe(name)
        if as_json:
            terminal.show_json(recipe.model_dump(mode="json", exclude_none=True))
        else:
            terminal.show(dump(recipe).rstrip("\n"))
        return
    listing = named_recipes()
    if as_json:
        terminal.show_json({"recipes": [{**asdict(named), "path": str(named.path)} for named in listing]})
        return
    rows: list[tuple[str, str]] = []
    for named in listing:
        rows += [(named.name, named.summary), ("  source", named.source), ("  cost", named.cost), ("", "")]
    terminal.show_rows(rows[:-1])
