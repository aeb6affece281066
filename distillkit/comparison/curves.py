"""Curves of a comparison: metrics over the optimiser steps, the mean of each arm and the range of its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from distillkit.comparison.arms import ComparedArm
from distillkit.comparison.run_facts import Points
from distillkit.pages import Line, LineChart

CHARTS = (
    ("validation/top1", "Validation accuracy", "top-1 %"),
    ("validation/loss", "Validation loss", "cross-entropy"),
    ("loss", "Training loss", "sum of own terms"),
)


def curves(arms: Sequence[ComparedArm], splits: Sequence[str]) -> Iterator[LineChart]:
    """A chart per metric that at least one run has logged; none of validation images that differ between runs."""
    for metric, title, label in CHARTS:
        if metric.startswith("validation/") and "validation" not in splits:
            continue
        lines = [line for number, arm in enumerate(arms) for line in _lines(arm, metric, number)]
        if lines:
            yield LineChart(title, "optimiser step", label, tuple(lines))


def _lines(arm: ComparedArm, metric: str, colour: int) -> Iterator[Line]:
    """The mean over the runs of an arm at the steps that all of them logged, with lowest and highest value."""
    runs = [run.curves[metric] for run in arm.runs if metric in run.curves]
    if not runs:
        return
    by_step = _at_common_steps(runs)
    if len(runs) == 1:
        yield Line(arm.name, runs[0], colour)
    elif by_step:
        mean = tuple((step, fmean(values)) for step, values in by_step)
        band = tuple((step, min(values), max(values)) for step, values in by_step)
        yield Line(arm.name, mean, colour, band)
    else:
        yield from (Line(f"{arm.name} {number}", points, colour) for number, points in enumerate(runs, start=1))


def _at_common_steps(runs: Sequence[Points]) -> list[tuple[float, list[float]]]:
    """The values of all runs at each step that every one of them has."""
    tables = [dict(points) for points in runs]
    return [(step, [table[step] for table in tables]) for step in tables[0] if all(step in table for table in tables)]
