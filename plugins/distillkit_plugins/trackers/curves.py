"""Curves in the report: loss terms, gradient norms and validation accuracy over the optimiser steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from distillkit.pages import Line, LineChart, Picture
from distillkit_plugins.trackers.gradient_norms_section import (
    draw_gradient_norms,
    gradient_norms_chart,
    marker_of,
    measured_steps,
)

HEADS = {
    "class_top1": "class head",
    "distill_top1": "distillation head",
    "fused_logits_top1": "fused (mean of logits)",
    "fused_softmax_top1": "fused (sum of softmaxes)",
    "top1": "student's prediction",
}
FILE = "curves.png"


def line_charts(steps: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]) -> Iterator[LineChart]:
    """The same curves as `draw_curves`; in Markdown the first one is its picture, in `FILE`."""
    instead = Picture("loss and accuracy over the run", b"", FILE)
    losses = [Line(term_name(name), _with(steps, name), number) for number, name in enumerate(_loss_names(steps))]
    yield LineChart("Loss", "optimiser step", "loss", tuple(losses), instead=instead)
    measured = measured_steps(steps)
    if measured:
        yield gradient_norms_chart(measured)
    names = [name for name in HEADS if name != "top1" and _with(epochs, f"validation/{name}")]
    if names:
        lines = [Line(HEADS[name], _with(epochs, f"validation/{name}"), number) for number, name in enumerate(names)]
        yield LineChart("Validation accuracy", "optimiser step", "top-1 %", tuple(lines))


def draw_curves(file: Path | BinaryIO, steps: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]) -> None:
    """Plot loss terms (left), gradient norms (middle) and validation accuracy (right) over the optimiser steps."""
    from distillkit.evaluation import drawing

    with drawing():
        _draw_curves(file, steps, epochs)


def _draw_curves(
    file: Path | BinaryIO, steps: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]
) -> None:
    # Not pyplot: it keeps figures in global state and may need a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from distillkit.evaluation import draw_legend

    measured = measured_steps(steps)
    accuracies = {
        label: points
        for name, label in HEADS.items()
        if name != "top1" and (points := _with(epochs, f"validation/{name}"))
    }
    panels = 1 + bool(measured) + bool(accuracies)
    figure = Figure(figsize=(5 * panels, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, *others = (figure.add_subplot(1, panels, index + 1) for index in range(panels))
    for name in _loss_names(steps):
        shown = [entry for entry in steps if name in entry]
        left.plot(
            [entry["step"] for entry in shown],
            [entry[name] for entry in shown],
            label=term_name(name),
            linewidth=2 if name == "loss" else 1.2,
            marker=marker_of(shown),
        )
    left.set(xlabel="optimiser step", ylabel="loss")
    draw_legend(left, frameon=False)
    if measured:
        draw_gradient_norms(others[0], measured)
    for label, points in accuracies.items():
        others[-1].plot(
            [step for step, _ in points], [value for _, value in points], label=label, marker=marker_of(points)
        )
        others[-1].set(xlabel="optimiser step", ylabel="validation top-1 (%)")
        draw_legend(others[-1], frameon=False)
    for axes in (left, *others):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def _loss_names(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """The loss and its terms; the sum of all, "loss", is the first."""
    return sorted({key for entry in steps for key in entry if key.startswith("loss")})


def _with(records: Sequence[Mapping[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    """(step, value) of every record that has a value."""
    return tuple((entry["step"], entry[key]) for entry in records if key in entry)


def term_name(name: str) -> str:
    """Legend label of a term: "loss/hard/hard" becomes "hard", and "loss", the sum, becomes "total"."""
    return "/".join(dict.fromkeys(name.split("/")[1:])) or "total"
