"""Picture of a benchmark: a bar per arm."""

from __future__ import annotations

from io import BytesIO

from distillkit.benchmark.result import BenchResult, milliseconds
from distillkit.benchmark.settings import OWN_ARMS
from distillkit.compute.drawing import drawing


def chart(result: BenchResult) -> bytes:
    """A PNG with milliseconds per image of every arm; bars of distillkit are darker."""
    with drawing():
        return _drawn(result)


def _drawn(result: BenchResult) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = [(arm.arm, arm.ms_per_image, "C0" if arm.arm in OWN_ARMS else "C7") for arm in reversed(result.arms)]
    if result.loader is not None:
        bars.insert(0, (f"{result.loader.arm} with loader", result.loader.ms_per_image, "C0"))
    figure = Figure(figsize=(8, 1 + 0.45 * len(bars)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names, values, colours = zip(*bars, strict=True)
    drawn = axes.barh(names, values, color=colours)
    axes.bar_label(drawn, [milliseconds(value) for value in values], padding=3, fontsize="small")
    axes.set_xlabel("ms per image")
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    given = result.conditions
    title = (
        f"{given['teacher']} to {given['student']}, {given['loss']}, batch {given['batch']}, {given['precision']}, "
        f"{given['device']}"
    )
    axes.set_title(title, fontsize="medium", loc="left", parse_math=False)
    content = BytesIO()
    figure.savefig(content, dpi=130)
    return content.getvalue()
