"""`distillkit bank`: list, fill, check and prune target banks."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from distillkit.errors import BankError
from distillkit_cli.help import NAMES, Verb, Verbs
from distillkit_cli.options import JSON, ModelOptions, RecipeOptions, flattened
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.bank.directory import Bank
    from distillkit.bank.inventory import ShelfContent

DIFFERENT = 1

DIR = typer.Argument(metavar="DIR", help="Folder of the bank.")
SHELVES = typer.Argument(metavar="[SHELF]...", help="Shelves to delete, as `distillkit bank info` names them.")
UNUSED = typer.Option("--unused-days", metavar="N", min=0, help="Delete the shelves that no run opened for N days.")
ROWS = typer.Option("--rows", metavar="N", min=1, help="Number of images to compare.")

bank = typer.Typer(cls=Verbs, context_settings=NAMES, no_args_is_help=True)


@bank.callback()
def group() -> None:
    """List, fill, check and prune target banks: the teacher's targets, stored for later runs."""


@bank.command(cls=Verb)
def info(context: typer.Context, directory: Annotated[Path, DIR], *, as_json: Annotated[bool, JSON] = False) -> None:
    """List the shelves of a bank: teacher, loss, rows, size, last use.

    For example:
      distillkit bank info bank/
    """
    from distillkit.bank.inventory import contents

    terminal: Terminal = context.obj
    found = list(contents(_bank(directory)))
    if as_json:
        terminal.show_json({"bank": str(directory), "shelves": [_as_dict(shelf) for shelf in found]})
    elif found:
        terminal.show_table(_table(found))
    else:
        terminal.show(f"{directory} has no shelves")


@bank.command(cls=Verb)
@flattened
def build(context: typer.Context, *, models: ModelOptions, recipe: RecipeOptions) -> None:
    """Run the teacher over every view of a run and store its targets, without training a student.

    Accepts the options of `distillkit run`; --bank is required. Targets that are stored are not computed again, so it
    can be interrupted and started again.

    For example:
      distillkit bank build --data flowers/ --teacher run:runs/teacher --loss hard --bank bank/ --set data.views=16
    """
    from distillkit import api
    from distillkit_cli.progress import show_images_read

    terminal: Terminal = context.obj
    plan = api.plan(recipe.resolved(models))
    from distillkit.running.fill_bank import fill_bank

    with closing(terminal.progress()) as display:
        filled = fill_bank(plan, partial(show_images_read, display))
    terminal.show_rows(
        [
            (name, f"{use.written:,} targets stored, {use.read:,} were there; {use.shelf.path}")
            for name, use in filled.uses.items()
        ]
    )


@bank.command(cls=Verb)
@flattened
def verify(
    context: typer.Context,
    *,
    models: ModelOptions,
    recipe: RecipeOptions,
    rows: Annotated[int, ROWS] = 1000,
) -> None:
    """Compare stored targets with the teacher's, for the views of a run.

    Accepts the options of `distillkit run`; --bank is required. Exit codes: 0 equal, 1 some targets differ by more than
    rounding.

    For example:
      distillkit bank verify --data flowers/ --teacher run:runs/teacher --loss hard --bank bank/
    """
    from distillkit import api
    from distillkit_cli.progress import show_images_read

    terminal: Terminal = context.obj
    plan = api.plan(recipe.resolved(models))
    from distillkit.running.fill_bank import check_bank

    with closing(terminal.progress()) as display:
        checks = check_bank(plan, rows, partial(show_images_read, display))
    terminal.show_rows(
        [
            (name, f"{check.stored:,} compared, {check.different:,} different; {check.missing:,} not stored")
            for name, check in checks.items()
        ]
    )
    if any(check.different for check in checks.values()):
        raise typer.Exit(DIFFERENT)


@bank.command(cls=Verb)
def prune(
    context: typer.Context,
    directory: Annotated[Path, DIR],
    shelves: Annotated[list[str] | None, SHELVES] = None,
    *,
    unused_days: Annotated[float | None, UNUSED] = None,
) -> None:
    """Delete shelves: those that are named, or those that no run has used for a while.

    For example:
      distillkit bank prune bank/ --unused-days 30
    """
    from distillkit.bank import inventory

    terminal: Terminal = context.obj
    if not shelves and unused_days is None:
        raise BankError("name the shelves to delete (`distillkit bank info` lists them), or give --unused-days N")
    found = _bank(directory)
    chosen = inventory.named(found, shelves) if shelves else []
    chosen += [] if unused_days is None else [one for one in inventory.unused(found, unused_days) if one not in chosen]
    for header in chosen:
        inventory.delete(header)
        terminal.show(f"deleted {header.path}")
    if not chosen:
        terminal.show("nothing to delete")


def _bank(directory: Path) -> Bank:
    """The bank in an existing folder.

    Raises: BankError if there is none.
    """
    from distillkit.bank.directory import Bank

    if not directory.is_dir():
        raise BankError(f"there is no bank '{directory}'; a run makes one with --bank {directory}")
    return Bank(directory)


def _as_dict(shelf: ShelfContent) -> dict[str, Any]:
    header = shelf.header
    return {
        "name": header.path.name,
        "planes": shelf.planes,
        "rows": shelf.rows,
        "bytes": shelf.bytes,
        "key": header.facts,
        "made_with": header.made_with,
    }


def _table(shelves: list[ShelfContent]) -> Table:
    from datetime import datetime

    from distillkit.messages.text import size_text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("shelf", "planes", "rows", "size", "last used"):
        table.add_column(heading, overflow="fold", justify="left" if heading in {"shelf", "last used"} else "right")
    for shelf in shelves:
        used = datetime.fromtimestamp(shelf.header.used_at_s).astimezone().strftime("%Y-%m-%d %H:%M")
        size = size_text(shelf.bytes)
        table.add_row(shelf.header.path.name, f"{shelf.planes:,}", f"{shelf.rows:,}", size, used)
    return table
