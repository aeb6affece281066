"""`distillkit recipes`: list the named recipes, or print one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from distillkit_cli.options import JSON
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.recipe.files import NamedRecipe

NAME = typer.Argument(metavar="NAME|FILE.toml", help="Print this recipe as TOML, with every key that is set.")


def recipes(
    context: typer.Context, *, name: Annotated[str | None, NAME] = None, as_json: Annotated[bool, JSON] = False
) -> None:
    """List the named recipes, or print one with every key that is set.

    The comment at the top lists what the source (paper or code) does not specify.

    Your own file can start with base = "deit-ti" and contain only the keys that differ.

    For example:
      distillkit recipes
      distillkit recipes deit-ti > mine.toml
      distillkit run --recipe mine.toml --data flowers/
    """
    from distillkit.recipe.files import dump, head_comment, load_recipe, named_recipes

    terminal: Terminal = context.obj
    if name is not None:
        recipe = load_recipe(name)
        if as_json:
            terminal.show_json(recipe.model_dump(mode="json", exclude_none=True))
        else:
            comment = head_comment(name)
            terminal.show("\n\n".join(filter(None, (comment, dump(recipe).rstrip("\n")))))
        return
    listing = named_recipes()
    if as_json:
        terminal.show_json({"recipes": [{**asdict(named), "path": str(named.path)} for named in listing]})
        return
    terminal.show_rows(_by_family(listing))
    terminal.note("for the source, cost and keys of a recipe: distillkit recipes NAME")


def _by_family(listing: Sequence[NamedRecipe]) -> list[tuple[str, str]]:
    """Names and summaries, with an empty row between names of different first words."""
    rows: list[tuple[str, str]] = []
    for _, family in groupby(listing, key=lambda named: named.name.partition("-")[0]):
        rows += [*([("", "")] if rows else []), *((named.name, named.summary) for named in family)]
    return rows
