"""`distillkit data`: check a data set before training on it."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from distillkit_cli.help import NAMES, Verb, Verbs
from distillkit_cli.options import JSON
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.data.checking import CheckReport

SHOWN = 10
"""Limit on the unreadable images that are listed."""
PROBLEMS_FOUND = 1

DATA = typer.Argument(metavar="DIR|NAME", help="Folder of classes, timm:<data set>, digits or imagenette.")
ROOT = typer.Option(metavar="DIR", help="Folder that holds the `timm:` data sets.")
BACKGROUND = typer.Option(metavar="COLOR", help="Colour behind transparent pixels, or none. Default: white.")
GREY16 = typer.Option(help="16-bit grey images. Default: refuse.")
WORKERS = typer.Option(metavar="N", min=0, help="Processes that read images. Default: one per core, at most 8.")

data = typer.Typer(cls=Verbs, context_settings=NAMES, no_args_is_help=True)


@data.callback()
def group() -> None:
    """Check a data set before training on it."""


@data.command(cls=Verb)
def check(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    name: Annotated[str, DATA],
    root: Annotated[Path | None, ROOT] = None,
    background: Annotated[str | None, BACKGROUND] = None,
    grey16: Annotated[Literal["refuse", "scale"] | None, GREY16] = None,
    workers: Annotated[int | None, WORKERS] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Read every image of every split as a run would. List unreadable images and problems with the classes.

    A run replaces or skips unreadable images, up to the share that data.broken allows.

    Exit codes: 0 no problems, 1 problems found, 2 no data to read. --json lists every problem.

    For example:
      distillkit data check flowers/
      distillkit data check flowers/ --json > problems.json
    """
    from distillkit.compute.cpus import loader_processes
    from distillkit.data import checking
    from distillkit.plugin.registry import installed_plugins
    from distillkit.recipe.files import load_recipe
    from distillkit.recipe.image_tables import Data
    from distillkit_cli.progress import show_images_read

    terminal: Terminal = context.obj
    given = {"train": name, "background": background, "grey16": grey16}
    recipe = load_recipe(data={key: value for key, value in given.items() if value is not None})
    with closing(terminal.progress()) as display:
        report = checking.check(
            Data(
                train=name,
                root=None if root is None else str(root),
                background=recipe.data.background,
                grey16=recipe.data.grey16,
            ),
            installed_plugins(),
            batch_size=recipe.training.batch_size,
            workers=loader_processes(workers),
            on_progress=partial(show_images_read, display),
        )
    if as_json:
        terminal.show_json(report.as_dict())
    else:
        _show(terminal, report)
    if not report.passed:
        raise typer.Exit(PROBLEMS_FOUND)


def _show(terminal: Terminal, report: CheckReport) -> None:
    from distillkit.messages.text import counted

    rows = [("data", report.name)]
    for split, images in report.images.items():
        kinds = report.kinds(split)
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        unread = f"; {sum(kinds.values()):,} unreadable: {counts}" if kinds else "; all readable"
        rows.append((split, counted(images, "image") + unread))
    rows += [("classes", f"{report.classes:,}")] if report.classes else []
    terminal.show_rows(
        [*rows, *(("problem", text) for text in report.wrong), *(("note", text) for text in report.notes)]
    )
    if report.broken:
        terminal.show("")
        terminal.show_table(_table(report))
        if len(report.broken) > SHOWN:
            terminal.note(f"and {len(report.broken) - SHOWN:,} more; --json lists all")


def _table(report: CheckReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("split", "image", "kind", "reason"):
        table.add_column(heading, overflow="fold")
    for image in report.broken[:SHOWN]:
        table.add_row(image.split, image.key, image.kind, image.reason)
    return table
