"""Figures of where class tokens look, from arrays: a row of panels for each model, a column for each layer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ShownHeads: TypeAlias = Literal["mean", "each"]
AxesBox: TypeAlias = tuple[float, float, float, float]
"""Left, right, bottom and top of something on the page."""

PANEL = 1.1
"""The side of a square panel; others have its area. All lengths are inches."""
GAP, MARGIN, HEADING, LINE = 0.1, 0.2, 0.42, 0.15
SCALE_WIDTH, SCALE_LABEL = 0.09, 0.5
NARROWEST = 6.5
"""Room for a heading over a single layer."""
CHARACTER = 0.0091
"""The width of a character for each point of its size."""
TITLE, NAME, LABEL, SMALL = 11, 9, 8, 7
"""Sizes of text, in points."""
DPI = 120
SCALE = {"cmap": "inferno", "vmin": 0, "alpha": 0.85}
BEHIND = (-0.75, 1.75)
"""What would be black and white in the image behind a map: it is kept pale, so that colours stay those of the scale."""
GREY = "0.35"


@dataclass(frozen=True)
class Sight:
    """What one model saw of one image, and where its class token looked.

    `name` says whose it is ("student deit-ti"). `rows` are of `layers`, counted from 0.
    Shapes: pixels [H, W, 3] from 0 to 1, as the model saw them; rows [L, heads, 1 + N], each a distribution over the
    class token and the N patches of `grid`, row-major.
    """

    name: str
    pixels: NDArray[np.float32]
    rows: NDArray[np.float32]
    layers: tuple[int, ...]
    grid: tuple[int, int]


def draw_attention(sights: Sequence[Sight], *, title: str, heads: ShownHeads = "mean") -> Figure:
    """The image as each model saw it, and over it the attention of its class token, layer by layer.

    `heads` draws their mean, or a row for each. The colours of a row share one scale from 0 to its largest entry, which
    stands beside it. A map lies over the image patch by patch, not smoothed; the entry that the class token keeps for
    itself is no patch and stands over its panel.
    """
    from matplotlib.figure import Figure

    strips = [strip for sight in sights for strip in _strips(sight, heads)]
    left = MARGIN + (0.25 if heads == "each" else 0.0)
    column = max(strip.panel[0] for strip in strips)
    columns = 1 + max(len(strip.rows) for strip in strips)
    width = max(left + columns * (column + GAP) + SCALE_WIDTH + SCALE_LABEL + MARGIN, NARROWEST)
    caption = textwrap.wrap(_caption(heads), _characters(width, SMALL))
    height = 2 * MARGIN + sum(strip.above + strip.panel[1] for strip in strips) + GAP + LINE * len(caption)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    page = _Page(axes, width)
    page.write(MARGIN, MARGIN + 0.05, shortened(title, _characters(width, TITLE)), size=TITLE, weight="bold")
    top = MARGIN
    for strip in strips:
        page.strip(strip, top, left=left, column=column)
        top += strip.above + strip.panel[1]
    for number, line in enumerate(caption, start=1):
        page.write(MARGIN, top + GAP + LINE * number, line, size=SMALL, color=GREY)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure


def as_png(figure: Figure) -> bytes:
    """The figure as a file; equal figures are equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def shortened(name: str, longest: int) -> str:
    """A name without its middle where it has more than `longest` characters.

    >>> shortened("run:runs/a-teacher-with-a-name", 17)
    'run:run...-a-name'
    """
    half = (longest - 3) // 2
    return name if len(name) <= longest else f"{name[:half]}...{name[-half:]}"


def percent(share: float) -> str:
    """A share in percent, with two digits that count.

    >>> percent(0.0512), percent(0.04), percent(0.5), percent(0.00042)
    ('5.1 %', '4.0 %', '50 %', '0.042 %')
    """
    figure = 100 * share
    return f"{figure:.0f} %" if figure >= 9.95 else f"{figure:.1f} %" if figure >= 0.995 else f"{figure:.2g} %"


@dataclass(frozen=True)
class _Strip:
    """Panels that share a scale: rows [L, 1 + N] of a sight. `head` is None for the mean of all heads."""

    sight: Sight
    rows: NDArray[np.float32]
    head: int | None

    @property
    def is_first(self) -> bool:
        """Whether the heading of the sight stands above."""
        return not self.head

    @property
    def panel(self) -> tuple[float, float]:
        """Width and height of a panel: the image's shape, and the area of a square one."""
        height, width = self.sight.pixels.shape[:2]
        return PANEL * (width / height) ** 0.5, PANEL * (height / width) ** 0.5

    @property
    def above(self) -> float:
        """Room for what is written over the panels."""
        return HEADING + 2 * LINE if self.is_first else LINE + GAP / 2

    @property
    def largest(self) -> float:
        """The largest share of a patch."""
        return float(self.rows[:, 1:].max())


def _strips(sight: Sight, heads: ShownHeads) -> Iterator[_Strip]:
    if heads == "mean":
        yield _Strip(sight, sight.rows.mean(axis=1), None)
    else:
        yield from (_Strip(sight, sight.rows[:, head], head) for head in range(sight.rows.shape[1]))


@dataclass(frozen=True)
class _Page:
    """A figure whose only axes count inches from the upper left corner. Many axes would take many times as long."""

    axes: Axes
    width: float

    def strip(self, strip: _Strip, top: float, *, left: float, column: float) -> None:
        """The panels of a strip under their titles, each in the middle of its column, and the scale of the colours."""
        sight, (width, height) = strip.sight, strip.panel
        below = top + strip.above
        places = [left + number * (column + GAP) + (column - width) / 2 for number in range(1 + len(strip.rows))]
        panels = [(place, place + width, below + height, below) for place in places]
        if strip.is_first:
            self.write(MARGIN, top + HEADING - 0.1, _heading(sight, _characters(self.width, NAME)), size=NAME)
            self.write(places[0] + width / 2, below - 0.05, "image", size=LABEL, ha="center")
            self.draw(sight.pixels, panels[0])
        if strip.head is not None:
            middle = below + height / 2
            self.write(left - GAP, middle, f"head {strip.head}", size=LABEL, rotation=90, ha="center", va="center")
        grey = sight.pixels.mean(axis=2)
        for layer, row, panel in zip(sight.layers, strip.rows, panels[1:], strict=True):
            middle = panel[0] + width / 2
            if strip.is_first:
                self.write(middle, below - 0.05 - LINE, f"layer {layer}", size=LABEL, ha="center")
            self.write(middle, below - 0.05, f"CLS {percent(row[0])}", size=SMALL, color=GREY, ha="center")
            self.draw(grey, panel, cmap="gray", vmin=BEHIND[0], vmax=BEHIND[1])
            self.draw(row[1:].reshape(sight.grid), panel, vmax=strip.largest, **SCALE)
        self.scale(strip.largest, panels[-1])

    def scale(self, largest: float, beside: AxesBox) -> None:
        """What the colours of a strip mean, right of its last panel."""
        _, left, bottom, top = beside
        left, right = left + GAP, left + GAP + SCALE_WIDTH
        place = (left, right, bottom, top)
        self.draw(np.full((1, 1), 0.5), place, cmap="gray", vmin=BEHIND[0], vmax=BEHIND[1])
        self.draw(np.linspace(largest, 0, 256)[:, None], place, vmax=largest, **SCALE)
        self.write(right + 0.04, top, percent(largest), size=SMALL, color=GREY, va="top")
        self.write(right + 0.04, bottom, "0", size=SMALL, color=GREY)

    def draw(self, pixels: NDArray[np.floating[Any]], place: AxesBox, **look: Any) -> None:
        """Lay pixels [h, w] or [h, w, 3] out over a place, unsmoothed."""
        self.axes.imshow(pixels, extent=place, aspect="auto", interpolation="nearest", **look)

    def write(self, left: float, baseline: float, text: str, **look: Any) -> None:
        """Write a line; a `$` in it begins no formula."""
        self.axes.text(left, baseline, text, parse_math=False, **{"va": "baseline", **look})


def _characters(width: float, size: float) -> int:
    """How many characters of a size go on a line of a page."""
    return int((width - 2 * MARGIN) / (CHARACTER * size))


def _heading(sight: Sight, longest: int) -> str:
    (height, width), (rows, columns), heads = sight.pixels.shape[:2], sight.grid, sight.rows.shape[1]
    counted = "1 head" if heads == 1 else f"{heads} heads"
    facts = f": {counted}, {rows} x {columns} patches, sees {height} x {width} pixels"
    return shortened(sight.name, longest - len(facts)) + facts


def _caption(heads: ShownHeads) -> str:
    of_heads = "the mean of the heads" if heads == "mean" else "head by head"
    return (
        f"Colour: the share of the class token's attention that a patch gets, {of_heads}; each row has a scale of its "
        "own, from 0 to its largest. CLS: the share that the class token keeps for itself. Patches are not smoothed "
        "(nearest)."
    )
