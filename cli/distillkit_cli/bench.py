"""`distillkit bench`: speed of distillation steps on this machine."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from distillkit.benchmark.settings import BenchSettings, named_as_options
from distillkit.compute.result_folder import require_result_folder
from distillkit_cli.options import JSON, flattened
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.benchmark.result import BenchResult
    from distillkit.messages.progress import ProgressDisplay

OUT = typer.Option(metavar="DIR", help="Also write bench.json, bench.md and bench.png to this folder.")


@flattened
def bench(
    context: typer.Context,
    *,
    settings: BenchSettings,
    out: Annotated[Path | None, OUT] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure distillation steps on this machine: plain torch, distillkit with and without a bank, timm, DeiT.

    Every arm gets the same models, batches and precision. Weights are random, which changes no time, so that nothing is
    downloaded. Rounds are interleaved, and ratios are computed within a round.

    For example:
      distillkit bench --minutes 5
      distillkit bench --precision bf16 --arms bank,student,timm-bf16
      distillkit bench --teacher timm:resnet50 --deit deit/ --out bench/
    """
    from distillkit.plugin.extras import require
    from distillkit.plugin.registry import installed_plugins

    terminal: Terminal = context.obj
    plugins = installed_plugins()
    with named_as_options():
        settings.check(plugins)
    if out is not None:
        require_result_folder(out, "the result")
    require("torch", "timm", "matplotlib", what="distillkit bench")
    from distillkit.benchmark.bench import bench as measured
    from distillkit.benchmark.bench import write

    with closing(terminal.progress()) as display, named_as_options():
        result = measured(settings, plugins, lambda what, done, total: _show_progress(display, what, done, total))
    if out is not None:
        write(result, out)
    _show(terminal, result, out, as_json=as_json)


def _show(terminal: Terminal, result: BenchResult, out: Path | None, *, as_json: bool) -> None:
    """Print the result on stdout; caveats, skipped arms and the files written on stderr."""
    if as_json:
        terminal.show_json(result.as_dict())
    else:
        terminal.show("\n".join(result.lines()))
        terminal.show_table(_table(result))
    for remark in result.remarks():
        terminal.note(remark)
    if out is not None:
        terminal.note(f"written to {out}: bench.json, bench.md, bench.png")


def _table(result: BenchResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, heading in enumerate(result.headings()):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in result.rows():
        table.add_row(*row)
    return table


def _show_progress(display: ProgressDisplay, what: str, done: int, total: int | None) -> None:
    counted = f"round {done}" + (f" of {total}" if total else "")
    display.show("round", done, total, what, line=f"{counted}: {what}")
