"""Figures of class token attention, from arrays: a row of panels for each model, a column for each layer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distillkit.compute.drawing import drawing
from distillkit.messages.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ShownHeads: TypeAlias = Literal["mean", "each"]
AxesBox: TypeAlias = tuple[float, float, float, float]
"""Left, right, bottom and top of an area on the page, in inches."""

PANEL = 1.1
"""Side of a square panel; other panels have the same area. All lengths are in inches."""
GAP, MARGIN, HEADING, LINE = 0.1, 0.2, 0.42, 0.15
SCALE_WIDTH, SCALE_LABEL = 0.09, 0.5
NARROWEST = 6.5
"""Minimum width of the page: room for a heading over a single layer."""
CHARACTER = 0.0091
"""Width of a character per point of font size."""
TITLE, NAME, LABEL, SMALL = 11, 9, 8, 7
"""Font sizes in points."""
DPI = 120
SCALE = {"cmap": "inferno", "vmin": 0, "alpha": 0.85}
BEHIND = (-0.75, 1.75)
"""Range of the grey image behind a map: wider than 0 to 1, which makes it pale, so that map and scale colours match."""
GREY = "0.35"


@dataclass(frozen=True)
class Sight:
    """Class token attention of one model to one image.

    `name` is the model's ("student deit-ti"). `rows` are those of `layers`, counted from 0.
    Shapes: pixels [H, W, 3] from 0 to 1, at the model's image size; rows [L, A, 1 + N], each a distribution over the
    class token and the N patches of `grid`, row-major.
    """

    name: str
    pixels: NDArray[np.float32]
    rows: NDArray[np.float32]
    layers: tuple[int, ...]
    grid: tuple[int, int]


def draw_attention(sights: Sequence[Sight], *, title: str, heads: ShownHeads = "mean") -> Figure:
    """Draw the image as input of each model, and over it the attention of its class token, layer by layer.

    `heads` draws their mean, or a row for each. The colours of a row share one scale from 0 to the largest entry, which
    is drawn to its right. A map lies over the image patch by patch, not smoothed; the class token's attention to itself
    is not a patch and is written above the panel.
    """
    with drawing():
        return _drawn(sights, title, heads)


def _drawn(sights: Sequence[Sight], title: str, heads: ShownHeads) -> Figure:
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
    """The figure as a PNG file; equal figures give equal bytes."""
    file = BytesIO()
    with drawing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure)
        figure.savefig(file, format="png", metadata={"Software": None})  # Software is the version of matplotlib
    return file.getvalue()


def shortened(name: str, longest: int) -> str:
    """A name without its middle if it has more than `longest` characters.

    >>> shortened("run:runs/a-teacher-with-a-name", 17)
    'run:run...-a-name'
    """
    half = (longest - 3) // 2
    return name if len(name) <= longest else f"{name[:half]}...{name[-half:]}"


def percent(share: float) -> str:
    """A share in percent, with two significant digits.

    >>> percent(0.0512), percent(0.04), percent(0.5), percent(0.00042)
    ('5.1 %', '4.0 %', '50 %', '0.042 %')
    """
    figure = 100 * share
    return f"{figure:.0f} %" if figure >= 9.95 else f"{figure:.1f} %" if figure >= 0.995 else f"{figure:.2g} %"


@dataclass(frozen=True)
class _Strip:
    """Panels that share a scale: attention rows [L, 1 + N] of a sight. `head` is None for the mean of all heads."""

    sight: Sight
    rows: NDArray[np.float32]
    head: int | None

    @property
    def is_first(self) -> bool:
        """Whether the strip has the heading of its sight: head 0 or the mean."""
        return not self.head

    @property
    def panel(self) -> tuple[float, float]:
        """Width and height of a panel: the image's aspect ratio, the area of a square panel."""
        height, width = self.sight.pixels.shape[:2]
        return PANEL * (width / height) ** 0.5, PANEL * (height / width) ** 0.5

    @property
    def above(self) -> float:
        """Height of the text above the panels."""
        return HEADING + 2 * LINE if self.is_first else LINE + GAP / 2

    @property
    def largest(self) -> float:
        """The largest share of a patch."""
        return float(self.rows[:, 1:].max())


def _strips(sight: Sight, heads: ShownHeads) -> Iterator[_Strip]:
    if heads == "mean":
        yield _Strip(sight, sight.rows.mean(axis=1), None)  # [L, 1 + N]
    else:
        yield from (_Strip(sight, sight.rows[:, head], head) for head in range(sight.rows.shape[1]))


@dataclass(frozen=True)
class _Page:
    """A figure with a single axes in inches from the upper left corner; many axes would take many times as long."""

    axes: Axes
    width: float

    def strip(self, strip: _Strip, top: float, *, left: float, column: float) -> None:
        """Draw the panels of a strip below their titles, each centred in its column, and the colour scale."""
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
        grey = sight.pixels.mean(axis=2)  # [H, W]
        for layer, row, panel in zip(sight.layers, strip.rows, panels[1:], strict=True):
            middle = panel[0] + width / 2
            if strip.is_first:
                self.write(middle, below - 0.05 - LINE, f"layer {layer}", size=LABEL, ha="center")
            self.write(middle, below - 0.05, f"CLS {percent(row[0])}", size=SMALL, color=GREY, ha="center")
            self.draw(grey, panel, cmap="gray", vmin=BEHIND[0], vmax=BEHIND[1])
            self.draw(row[1:].reshape(sight.grid), panel, vmax=strip.largest, **SCALE)  # [h, w]
        self.scale(strip.largest, panels[-1])

    def scale(self, largest: float, last_panel: AxesBox) -> None:
        """Draw the colour scale of a strip, right of its last panel."""
        _, left, bottom, top = last_panel
        left, right = left + GAP, left + GAP + SCALE_WIDTH
        place = (left, right, bottom, top)
        # Over mid grey, as maps lie over the grey image.
        self.draw(np.full((1, 1), 0.5), place, cmap="gray", vmin=BEHIND[0], vmax=BEHIND[1])
        self.draw(np.linspace(largest, 0, 256)[:, None], place, vmax=largest, **SCALE)  # [256, 1]
        self.write(right + 0.04, top, percent(largest), size=SMALL, color=GREY, va="top")
        self.write(right + 0.04, bottom, "0", size=SMALL, color=GREY)

    def draw(self, pixels: NDArray[np.floating[Any]], place: AxesBox, **style: Any) -> None:
        """Draw pixels [h, w] or [h, w, 3] in a place, not smoothed."""
        self.axes.imshow(pixels, extent=place, aspect="auto", interpolation="nearest", **style)

    def write(self, left: float, baseline: float, text: str, **style: Any) -> None:
        """Write a line of text, which names files and classes: control characters are escaped, `$` is no formula."""
        self.axes.text(left, baseline, visible(text), parse_math=False, **{"va": "baseline", **style})


def _characters(width: float, size: float) -> int:
    """Number of characters of a font size that fit on a line."""
    return int((width - 2 * MARGIN) / (CHARACTER * size))


def _heading(sight: Sight, longest: int) -> str:
    (height, width), (rows, columns), heads = sight.pixels.shape[:2], sight.grid, sight.rows.shape[1]
    counted = "1 head" if heads == 1 else f"{heads} heads"
    facts = f": {counted}, {rows} x {columns} patches, image {height} x {width} pixels"
    return shortened(sight.name, longest - len(facts)) + facts


def _caption(heads: ShownHeads) -> str:
    of_heads = "mean over heads" if heads == "mean" else "head by head"
    return (
        f"Colour: share of the class token's attention that goes to a patch, {of_heads}; each row has its own scale, "
        "from 0 to its maximum. CLS: share that goes to the class token itself. Patches are not smoothed (nearest)."
    )
