"""`distillkit replay`: repeat a step whose loss or gradient was not finite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from distillkit_cli.options import JSON
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.running.replay import Replay

SHOWN = 10
"""Limit on the samples and parameters that are listed."""

RUN = typer.Argument(metavar="RUN", help="Directory of a run that stopped because of non-finite steps.")
STEP = typer.Option(metavar="N", help="Saved step to repeat. Default: the last.")
PRECISION = typer.Option(help="Precision to use instead of the run's.")
DEVICE = typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps. Default: as in the run.")


def replay(
    context: typer.Context,
    *,
    run: Annotated[Path, RUN],
    step: Annotated[int | None, STEP] = None,
    precision: Annotated[Literal["fp32", "bf16", "fp16"] | None, PRECISION] = None,
    device: Annotated[str | None, DEVICE] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Repeat the step at which a run stopped, and show what was not finite.

    A run stops when the loss or gradient is not finite in training.max_skipped consecutive steps. It saves the last of
    them: the batch as the models received it and the state before the step. A replay changes no file.

    For example:
      distillkit replay runs/a
      distillkit replay runs/a --precision fp32
    """
    from distillkit.plugin.extras import require
    from distillkit.running.directory import RunDirectory

    RunDirectory(run).read_recipe()  # for its errors, before torch is imported
    require("torch", "timm", what="distillkit replay")
    from distillkit.plugin.registry import installed_plugins
    from distillkit.running import replay as library

    result = library.replay(run, installed_plugins(), step=step, precision=precision, device=device)
    terminal: Terminal = context.obj
    if as_json:
        terminal.show_json(result.as_dict())
    else:
        _show(terminal, result)


def _show(terminal: Terminal, result: Replay) -> None:
    terminal.show_rows(_rows(result))
    terminal.show("")
    table = Table(box=None, pad_edge=False)
    table.add_column("term", header_style="dim")
    table.add_column("in the run", header_style="dim", justify="right")
    table.add_column("now", header_style="dim", justify="right")
    for name, (then, now) in result.terms.items():
        table.add_row(name, f"{then:.6g}", f"{now:.6g}")
    table.add_row("gradient norm", "", f"{result.gradient_norm:.6g}")
    terminal.show_table(table)


def _rows(result: Replay) -> list[tuple[str, str]]:
    verdict = "not finite again: reproduced" if result.reproduced else "everything is finite: not reproduced"
    rows = [
        ("saved", f"step {result.step:,}, {result.directory}"),
        ("in the run", result.reason),
        ("now", f"{verdict} ({result.precision} on {result.device})"),
    ]
    if result.output is not None:
        output, between = result.output, result.output.input_range
        values = "not finite" if between is None else f"from {between[0]:.4g} to {between[1]:.4g}"
        rows.append(("first output", f"{output.module} ({output.kind}); its input is {values}"))
    if result.parameters:
        count = f"{len(result.parameters):,} of {result.trained:,}, in the order of the backward pass: "
        rows.append(("gradients", count + _listed(result.parameters)))
    for term in dict.fromkeys(sample.term for sample in result.samples):
        of_term = [sample for sample in result.samples if sample.term == term]
        named = tuple(sample.key + ("" if sample.index is None else f" ({sample.index})") for sample in of_term)
        rows.append((f"samples of {term}", f"{len(of_term):,}: {_listed(named)}"))
    return rows


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
