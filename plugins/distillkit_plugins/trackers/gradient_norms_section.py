"""Gradient norms of the loss terms in the report: a plot and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distillkit.pages import Line, LineChart, PageTable, TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Steps = Sequence[Mapping[str, Any]]

PREFIX = "grad_norm/"
COLUMNS = 5
"""Number of steps in the table: the first, the last, and some between."""


def measured_steps(steps: Steps) -> Steps:
    """Records in which every gradient norm is finite; empty if the loss has a single term."""
    # With fp16 a norm may be infinite in the first steps, while the loss scale is too large.
    return [entry for entry in steps if len(_norms(entry)) > 1 and math.isfinite(sum(_norms(entry).values()))]


def marker_of(points: Sequence[object]) -> str | None:
    """The marker of a curve: a line through a single point would be invisible."""
    return "o" if len(points) == 1 else None


def draw_gradient_norms(axes: Axes, measured: Steps) -> None:
    """Plot the norms over the steps on a logarithmic axis, which cannot show a norm of 0."""
    from distillkit.evaluation import draw_legend

    # From 1: colour 0 is the total in the plot of the losses, where each term has the same colour as here.
    for number, name in enumerate(sorted(_norms(measured[0])), start=1):
        shown = [entry for entry in measured if _norms(entry).get(name, 0.0) > 0]
        norms = [_norms(entry)[name] for entry in shown]
        axes.semilogy(
            [entry["step"] for entry in shown],
            norms,
            f"C{number % 10}",
            label=_term(name),
            linewidth=1.2,
            marker=marker_of(shown),
        )
    axes.set(xlabel="optimiser step", ylabel="gradient norm of weight x term")
    draw_legend(axes, frameon=False)


def gradient_norms_chart(measured: Steps) -> LineChart:
    """The same plot as `draw_gradient_norms` for a page."""
    lines = tuple(
        Line(
            _term(name),
            tuple((entry["step"], norm) for entry in measured if (norm := _norms(entry).get(name, 0.0)) > 0),
            number,
        )
        for number, name in enumerate(sorted(_norms(measured[0])), start=1)
    )
    return LineChart("Gradient norms", "optimiser step", "norm of weight x term", lines, is_logarithmic=True)


def gradient_norms_table(measured: Steps) -> PageTable:
    """Norm and share of every term at steps spread over the run, starting with the first one."""
    spread = {round(number * (len(measured) - 1) / (COLUMNS - 1)) for number in range(COLUMNS)}
    columns = [measured[number] for number in sorted(spread)]
    steps = [f"step {entry['step']:,.0f}" for entry in columns]
    rows = (TableRow((_term(name), *(_cell(_norms(entry), name) for entry in columns))) for name in _norms(columns[0]))
    return PageTable("", ("term", *steps), tuple(rows), label="Gradient norms")


def _norms(entry: Mapping[str, Any]) -> dict[str, float]:
    return {key.removeprefix(PREFIX): value for key, value in entry.items() if key.startswith(PREFIX)}


def _cell(norms: Mapping[str, float], name: str) -> str:
    total = sum(norms.values())
    norm = norms.get(name, 0.0)
    return f"{norm:.3g} ({100 * norm / total:.1f} %)" if total else "0"


def _term(name: str) -> str:
    return "/".join(dict.fromkeys(name.split("/")))
