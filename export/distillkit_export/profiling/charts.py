"""Charts of profiles: latency against batch size, throughput against latency, accuracy against throughput."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from distillkit.compute.drawing import draw_legend, drawing
from distillkit.storage.atomic import write_bytes
from distillkit_export.profiling.schema import Mode, ProfileCard, RowCard

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_MATPLOTLIB = 'no charts, because matplotlib is not installed; pip install "distillkit[train]"'
LATENCY, THROUGHPUT, ACCURACY = "latency.png", "throughput.png", "accuracy.png"
MARKERS = "osD^vP*X"
WITH_CAVEATS = "with caveats"
MOST_SHADED = 3
"""With more configurations, the shaded areas up to p99 hide each other."""
LEAST_RANGE = 4.0
"""Minimum span of the accuracy axis in percentage points."""


@dataclass(frozen=True)
class Charts:
    """The files that were drawn, and notes about charts that were not."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One measurement in a chart; `accuracy` in percent, None if unknown."""

    line: str
    subject: str
    batch: int
    p50_ms: float
    p99_ms: float
    images_per_s: float
    accuracy: float | None
    has_caveats: bool


def draw(profiles: Sequence[ProfileCard], directory: Path) -> Charts:
    """Draw charts of the profiles. Points with caveats are hollow; without matplotlib there is a note instead."""
    found = points(profiles)
    if not found:
        return Charts((), ())
    if find_spec("matplotlib") is None:
        return Charts((), (NO_MATPLOTLIB,))
    directory.mkdir(parents=True, exist_ok=True)
    numbers = {name: number for number, name in enumerate(_lines(found))}
    files, notes = [], []
    if len({point.batch for point in found}) > 1:
        files.append(_figure(directory / LATENCY, lambda axes: _latency(axes, found, numbers)))
    else:
        notes.append(f"{LATENCY} is not drawn, because only one batch size was measured")
    files.append(_figure(directory / THROUGHPUT, lambda axes: _throughput(axes, found, numbers)))
    best = frontier(found)
    unmeasured = sorted({point.subject for point in found if point.accuracy is None})
    if best:
        files.append(_figure(directory / ACCURACY, lambda axes: _accuracy(axes, best, numbers)))
        if unmeasured:
            notes.append(f"{ACCURACY} leaves out subjects without a measured accuracy: {', '.join(unmeasured)}")
    else:
        notes.append(f"{ACCURACY} is not drawn, because no accuracy was measured for {', '.join(unmeasured)}")
    return Charts(tuple(files), tuple(notes))


def points(profiles: Iterable[ProfileCard]) -> list[Point]:
    """Every measured row; end to end only, if a configuration was measured in both modes."""
    found: list[Point] = []
    shown = list(profiles)
    alone = len({subject.name for profile in shown for subject in profile.subjects}) == 1
    for profile in shown:
        for configuration in profile.configurations:
            rows = [row for row in profile.rows if row.configuration == configuration.name and row.failed is None]
            mode: Mode = "e2e" if any(row.mode == "e2e" for row in rows) else "compute"
            accuracy = profile.subject(configuration.subject).accuracy.get(configuration.precision)
            top1 = None if accuracy is None else accuracy.top1
            label = configuration.name.split("/", 1)[1] if alone else configuration.name
            found += [_point(row, label, configuration.subject, top1) for row in rows if row.mode == mode]
    return found


def frontier(found: Sequence[Point]) -> list[Point]:
    """For each configuration with a known accuracy, the point at the batch size with the highest throughput."""
    best: dict[str, Point] = {}
    for point in found:
        if point.accuracy is not None and point.images_per_s > getattr(best.get(point.line), "images_per_s", 0.0):
            best[point.line] = point
    return list(best.values())


def _point(row: RowCard, label: str, subject: str, accuracy: float | None) -> Point:
    figures = (row.p50_ms, row.p99_ms, row.images_per_s)
    p50, p99, rate = (math.nan if value is None else value for value in figures)
    return Point(label, subject, row.batch, p50, p99, rate, accuracy, bool(row.caveats))


def _figure(file: Path, fill: Callable[[Axes], None]) -> Path:
    with drawing():
        return _drawn(file, fill)


def _drawn(file: Path, fill: Callable[[Axes], None]) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    # Not pyplot, which keeps figures globally and may open a GUI backend.
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    fill(axes)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log" and axis.get_minor_ticks():
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if any(line.get_gid() == WITH_CAVEATS for line in axes.lines):
        axes.set_title("hollow markers have caveats, see profile.md", fontsize="small", loc="right")
    draw_legend(figure, loc="outside lower center", fontsize="small", ncols=2, frameon=False)
    content = BytesIO()
    figure.savefig(content, dpi=130)
    write_bytes(file, content.getvalue())
    return file


def _lines(found: Sequence[Point]) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = {}
    for point in sorted(found, key=lambda point: point.batch):
        lines.setdefault(point.line, []).append(point)
    return lines


def _latency(axes: Axes, found: Sequence[Point], numbers: Mapping[str, int]) -> None:
    lines = _lines(found)
    shaded = len(lines) <= MOST_SHADED
    for name, line in lines.items():
        number = numbers[name]
        batches = [point.batch for point in line]
        _draw_line(axes, number, name, batches, [point.p50_ms for point in line], line)
        if not shaded:
            continue
        axes.fill_between(
            batches,
            [point.p50_ms for point in line],
            [point.p99_ms for point in line],
            alpha=0.12,
            color=f"C{number % 10}",
        )
    axes.set(
        xscale="log", yscale="log", xlabel="batch", ylabel=f"latency, ms (p50{', shaded to p99' if shaded else ''})"
    )
    sizes = sorted({point.batch for point in found})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xticks([], minor=True)


def _throughput(axes: Axes, found: Sequence[Point], numbers: Mapping[str, int]) -> None:
    for name, line in _lines(found).items():
        latencies = [point.p50_ms for point in line]
        _draw_line(axes, numbers[name], name, latencies, [point.images_per_s for point in line], line)
        for point in line:
            position = (point.p50_ms, point.images_per_s)
            axes.annotate(str(point.batch), position, (5, 4), textcoords="offset points", fontsize="x-small")
    axes.set(xscale="log", yscale="log", xlabel="latency, ms (p50); numbers are batch sizes", ylabel="images/s")


def _accuracy(axes: Axes, found: Sequence[Point], numbers: Mapping[str, int]) -> None:
    """Accuracy against throughput, as in the DeiT paper's comparison of models."""
    heights = [point.accuracy or 0.0 for point in found]
    for point, height in zip(found, heights, strict=True):
        label = f"{point.line} (batch {point.batch})"
        _draw_line(axes, numbers[point.line], label, [point.images_per_s], [height], [point])
    # A minimum span, so that the sampling error of a few thousand test images does not look like a difference.
    middle = (min(heights) + max(heights)) / 2
    half = max(LEAST_RANGE, 1.2 * (max(heights) - min(heights))) / 2
    axes.set(ylim=(middle - half, middle + half))
    axes.set(xscale="log", xlabel="images/s, at the best batch size", ylabel="top-1 accuracy, %")


def _draw_line(
    axes: Axes, number: int, name: str, xs: Sequence[float], ys: Sequence[float], line: Sequence[Point]
) -> None:
    colour, marker = f"C{number % 10}", MARKERS[number % len(MARKERS)]
    axes.plot(xs, ys, color=colour, linewidth=1, label=name, marker=marker, markersize=6)
    hollow = [(x, y) for x, y, point in zip(xs, ys, line, strict=True) if point.has_caveats]
    if hollow:
        axes.plot(
            *zip(*hollow, strict=True), color="white", marker=marker, markersize=3, linestyle="none", gid=WITH_CAVEATS
        )
