"""Dot plots as HTML that fits any width: a row per arm, a dot per repetition, a mark at the mean."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from distillkit.pages.axes import ChartAxis, linear_axis
from distillkit.pages.content import DotPlot, Dots
from distillkit.pages.elements import element, number
from distillkit.pages.line_chart import series_class


def dot_plot(plot: DotPlot) -> Element | None:
    """The plot with its title; None without rows."""
    if not plot.rows:
        return None
    values = [value for row in plot.rows for _, value in row.values]
    axis = linear_axis(
        min([*values, *(row.low for row in plot.rows)]), max([*values, *(row.high for row in plot.rows)])
    )
    rows = [part for row in plot.rows for part in _row(row, axis)]
    ticks = [element("span", axis.label(tick), style=f"left:{_percent(axis, tick)}") for tick in axis.ticks]
    # The axis repeats what each row says in words.
    scale = [element("span"), element("div", *ticks, class_="scale"), element("span", plot.unit, class_="unit")]
    grid = element("div", *rows, element("div", *scale, class_="row", aria_hidden="true"), class_="dots")
    return element("figure", element("figcaption", plot.title), grid, class_="chart wide")


def _row(row: Dots, axis: ChartAxis) -> list[Element]:
    low, high = (_percent(axis, value) for value in (row.low, row.high))
    bar = element("span", class_="bar", style=f"left:{low};right:calc(100% - {high})")
    dots = [
        element("span", class_="dot", title=f"{name}: {value:.4g}", style=f"left:{_percent(axis, value)}")
        for name, value in row.values
    ]
    grid = [element("span", class_="rule", style=f"left:{_percent(axis, tick)}") for tick in axis.ticks]
    centre = element("span", class_="centre", style=f"left:{_percent(axis, row.centre)}")
    in_words = ", ".join(f"{name} {value:.4g}" for name, value in row.values)
    track = element("div", *grid, bar, centre, *dots, class_="track", role="img", aria_label=in_words)
    kind = f"row {series_class(row.colour)}"
    return [element("div", element("span", row.name, class_="name"), track, element("span", row.text), class_=kind)]


def _percent(axis: ChartAxis, value: float) -> str:
    return f"{number(100 * axis.share(value))}%"
