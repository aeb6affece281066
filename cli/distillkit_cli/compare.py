"""`distillkit compare`: runs side by side, as tables, JSON, Markdown and a page."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table as RichTable
from rich.text import Text as RichText

from distillkit.compute.result_folder import require_result_folder
from distillkit.errors import UserError
from distillkit.messages.progress import show_images_measured
from distillkit.messages.text import visible
from distillkit_cli.options import JSON
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.comparison.comparison import Comparison
    from distillkit.pages import PageTable, PageText

RUNS = typer.Argument(metavar="RUN", help="Run directories, or folders that hold some, at most 3 levels deep.")
BASELINE = typer.Option(
    metavar="ARM|RUN", help="Arm that differences are taken from, or one of its runs. Default: that of the first run."
)
IMAGES = typer.Option(
    metavar="N",
    help="Measure every student again, and show N images of each kind: right with one arm, wrong with the other.",
)
DEVICE = typer.Option(metavar="NAME", help="Device for --images: auto, the default, cpu, cuda, cuda:1 or mps.")
OUT = typer.Option(metavar="DIR", help="Also write comparison.json, comparison.md and comparison.html to this folder.")
MARKDOWN = typer.Option("--markdown", help="Print Markdown.")


def compare(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    runs: Annotated[list[str], RUNS],
    baseline: Annotated[str | None, BASELINE] = None,
    images: Annotated[int | None, IMAGES] = None,
    device: Annotated[str | None, DEVICE] = None,
    out: Annotated[Path | None, OUT] = None,
    as_json: Annotated[bool, JSON] = False,
    as_markdown: Annotated[bool, MARKDOWN] = False,
) -> None:
    """Compare finished runs: what differs, accuracy with spread over seeds, cost, latency.

    Runs whose recipes differ only by seed are repetitions of one arm. Differences are paired by seed.

    comparison.html is one page without scripts that needs no other file; it has the curves, and accuracy per class.

    For example:
      distillkit compare runs/
      distillkit compare runs/ --baseline runs/hard-0 --out compared/
      distillkit compare runs/hard-0 runs/soft-0 --images 12 --out all/
    """
    from distillkit import api

    terminal: Terminal = context.obj
    if as_json and as_markdown:
        raise UserError("give --json or --markdown, not both")
    if device is not None and images is None:
        raise UserError("--device is for --images N, which runs the students; leave it out, or give --images")
    if out is not None:
        require_result_folder(out, "the comparison")  # before anything is read
    with closing(terminal.progress()) as display:
        comparison = api.compare(
            runs,
            baseline=baseline,
            images=images,
            device=device or "auto",
            report=partial(show_images_measured, display),
        )
    written = () if out is None else comparison.write(out)
    if as_markdown:
        terminal.show(comparison.markdown().rstrip("\n"))
    show_comparison(terminal, comparison, as_json=as_json, only_remarks=as_markdown)
    if written:
        terminal.note(f"written to {out}: {', '.join(path.name for path in written)}")


def show_comparison(
    terminal: Terminal, comparison: Comparison, *, as_json: bool = False, only_remarks: bool = False
) -> None:
    """Print a comparison on stdout; runs that are left out and notes on stderr."""
    if as_json:
        terminal.show_json(comparison.as_dict())
    elif not only_remarks:
        for number, table in enumerate(comparison.tables()):
            terminal.show("\n" * bool(number) + table.caption)
            terminal.show_table(_table(table))
    for remark in comparison.remarks():
        terminal.note(remark)


def _table(table: PageTable) -> RichTable:
    made = RichTable(box=None, pad_edge=False, header_style="dim")
    for column, heading in enumerate(table.headings):
        is_text = column == 0 or column in table.text_columns
        made.add_column(RichText(visible(heading)), justify="left" if is_text else "right", overflow="fold")
    for row in table.rows:
        made.add_row(*map(_cell, row.cells))
    return made


def _cell(text: PageText) -> RichText:
    from distillkit.pages import Code, Strong

    parts = (text,) if isinstance(text, str | Code | Strong) else text
    styled = ((part, "") if isinstance(part, str) else (part.text, "bold" * isinstance(part, Strong)) for part in parts)
    return RichText.assemble(*((visible(content), style) for content, style in styled))
