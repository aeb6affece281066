"""Line charts as inline SVG. Colours are those of the page's style sheet, so they follow light and dark displays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar
from xml.etree.ElementTree import Element

from distillkit.pages.axes import ChartAxis, linear_axis, logarithmic_axis
from distillkit.pages.content import Line, LineChart
from distillkit.pages.elements import element, number

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 40
"""Margins of the plot in user units."""
COLOURS = 8
"""Number of colours in the style sheet; further lines repeat them with dashes."""
MOST_POINTS = 300
"""Points of a line; of more, only some are drawn."""
MARKED = 12
"""A line with at most this many points has a mark at each."""

_Point = TypeVar("_Point")


def series_class(colour: int) -> str:
    """The class that gives an element the colour of a series, and dashes after all colours are used."""
    dashes = colour // COLOURS % 3
    return f"s{colour % COLOURS}" + (f" d{dashes}" if dashes else "")


def line_chart(chart: LineChart) -> Element | None:
    """The chart with its title; None if no line has a point that can be drawn."""
    lines = [drawn for line in chart.lines if (drawn := _drawable(line, positive=chart.is_logarithmic)).points]
    if not lines:
        return None
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for y in _heights(line)]
    x_axis = linear_axis(min(xs), max(xs))
    if len(set(xs)) > 1:  # the lines start and end at the edges
        x_axis = ChartAxis(min(xs), max(xs), tuple(tick for tick in x_axis.ticks if min(xs) <= tick <= max(xs)))
    y_axis = logarithmic_axis(min(ys), max(ys)) if chart.is_logarithmic else linear_axis(min(ys), max(ys))
    parts = [*_grid(chart, x_axis, y_axis)]
    # Bands first, then thin lines, so that they do not cover the others.
    parts += [_band(line, x_axis, y_axis) for line in lines if line.band]
    for line in sorted(lines, key=lambda line: not line.is_faint):
        parts += _line(line, x_axis, y_axis)
    drawing = element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=_description(chart, lines))
    return element("figure", element("figcaption", chart.title), drawing, class_="chart")


def _drawable(line: Line, *, positive: bool) -> Line:
    """The line without points that cannot be drawn, and with fewer of very many."""
    points = [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y) and not (positive and y <= 0)]
    band = [each for each in line.band if all(map(math.isfinite, each)) and not (positive and each[1] <= 0)]
    return Line(line.name, tuple(_thinned(points)), line.colour, tuple(_thinned(band)), line.is_faint)


def _thinned(points: Sequence[_Point]) -> Sequence[_Point]:
    """At most MOST_POINTS of the points, evenly spaced, with the first and the last."""
    if len(points) <= MOST_POINTS:
        return points
    return [points[round(index * (len(points) - 1) / (MOST_POINTS - 1))] for index in range(MOST_POINTS)]


def _heights(line: Line) -> Iterator[float]:
    yield from (y for _, y in line.points)
    for _, low, high in line.band:
        yield from (low, high)


def _grid(chart: LineChart, x_axis: ChartAxis, y_axis: ChartAxis) -> Iterator[Element]:
    """Grid lines, ticks and labels of both axes."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick in y_axis.ticks:
        y = _y(y_axis, tick)
        yield element("line", x1=LEFT, x2=right, y1=y, y2=y, class_="grid")
        yield element("text", y_axis.label(tick), x=LEFT - 7, y=y + 4, class_="tick", text_anchor="end")
    for tick in x_axis.ticks:
        x = _x(x_axis, tick)
        yield element("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis")
        yield element("text", x_axis.label(tick), x=x, y=bottom + 17, class_="tick", text_anchor="middle")
    yield element("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis")
    centre = (LEFT + right) / 2
    yield element("text", chart.x_label, x=centre, y=HEIGHT - 5, class_="label", text_anchor="middle")
    middle = (TOP + bottom) / 2
    turn = f"rotate(-90 11 {number(middle)})"
    yield element("text", chart.y_label, x=11, y=middle, class_="label", text_anchor="middle", transform=turn)


def _band(line: Line, x_axis: ChartAxis, y_axis: ChartAxis) -> Element:
    upper = [f"{number(_x(x_axis, x))},{number(_y(y_axis, high))}" for x, _, high in line.band]
    lower = [f"{number(_x(x_axis, x))},{number(_y(y_axis, low))}" for x, low, _ in reversed(line.band)]
    return element("polygon", points=" ".join([*upper, *lower]), class_=f"band {series_class(line.colour)}")


def _line(line: Line, x_axis: ChartAxis, y_axis: ChartAxis) -> Iterator[Element]:
    places = [(_x(x_axis, x), _y(y_axis, y)) for x, y in line.points]
    kind = f"line {series_class(line.colour)}{' faint' if line.is_faint else ''}"
    name = element("title", line.name)
    yield element("polyline", name, points=" ".join(f"{number(x)},{number(y)}" for x, y in places), class_=kind)
    if len(places) == 1 or (len(places) <= MARKED and not line.is_faint):
        for (x, y), (at, value) in zip(places, line.points, strict=True):
            text = element("title", f"{line.name}: {value:.4g} at {at:,g}")
            yield element("circle", text, cx=x, cy=y, r=3, class_=f"mark {series_class(line.colour)}")


def _x(axis: ChartAxis, value: float) -> float:
    return LEFT + (WIDTH - RIGHT - LEFT) * axis.share(value)


def _y(axis: ChartAxis, value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * axis.share(value)


def _description(chart: LineChart, lines: Sequence[Line]) -> str:
    """The chart in words, for a screen reader: the last value of each line."""
    ends = ", ".join(f"{line.name} {line.points[-1][1]:.4g}" for line in lines if not line.is_faint)
    return f"Line chart of {chart.y_label} over {chart.x_label}. Last values: {ends}."
