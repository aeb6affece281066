"""Content of a report: paragraphs, tables, charts and pictures, independent of Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Code:
    """Text in a fixed-width font: a command, a key, a file name."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Emphasised text."""

    text: str


PageText: TypeAlias = str | Code | Strong | Sequence["str | Code | Strong"]
"""Text of any origin; what writes the page escapes it."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `is_minor` sets it in smaller type, as for a remark on a table."""

    text: PageText
    is_minor: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list with bullets."""

    items: tuple[PageText, ...]


@dataclass(frozen=True)
class Listing:
    """Lines of code or commands."""

    text: str


@dataclass(frozen=True)
class TableRow:
    """A row of a table; the first cell is its heading. `colour` is the number of its series in the charts."""

    cells: tuple[PageText, ...]
    colour: int | None = None


@dataclass(frozen=True)
class PageTable:
    """A table. The first column is text, `text_columns` are others; all other columns are numbers.

    `label` describes a table without a caption to a screen reader. `headings` may be empty texts, for a table of names
    and values. `shades` has a number from -1 to 1 for each cell of each row, None for a cell without a background:
    negative is worse, positive is better.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[TableRow, ...]
    text_columns: frozenset[int] = frozenset()
    shades: tuple[tuple[float | None, ...], ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG picture; Markdown links to `path`, relative to the report."""

    alt: str
    content: bytes
    path: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a chart. `band` has (x, low, high); `is_faint` draws it thin, for one of several repetitions."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int
    band: tuple[tuple[float, float, float], ...] = ()
    is_faint: bool = False


@dataclass(frozen=True)
class LineChart:
    """Lines over a common axis. Markdown shows `instead`, a picture of the same chart, if there is one."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    is_logarithmic: bool = False
    instead: Picture | None = None


@dataclass(frozen=True)
class Dots:
    """A row of a dot plot: a dot per value with its name, a mark at `centre`, and a bar from `low` to `high`."""

    name: str
    values: tuple[tuple[str, float], ...]
    colour: int
    text: str
    centre: float
    low: float
    high: float


@dataclass(frozen=True)
class DotPlot:
    """Values of several repetitions, a row per arm, on a common axis. Markdown leaves it out."""

    title: str
    unit: str
    rows: tuple[Dots, ...]


@dataclass(frozen=True)
class Thumbnail:
    """A small picture with lines of text: (heading, text, whether it is right, None if neither)."""

    picture: Picture
    lines: tuple[tuple[str, str, bool | None], ...]


@dataclass(frozen=True)
class Gallery:
    """Small pictures; Markdown has a table of their texts."""

    caption: str
    thumbnails: tuple[Thumbnail, ...]


PageBlock: TypeAlias = Paragraph | Bullets | Listing | PageTable | Picture | LineChart | DotPlot | Gallery


@dataclass(frozen=True)
class Section:
    """A heading and what follows it. Neighbouring charts are set side by side where there is room."""

    title: str
    blocks: tuple[PageBlock, ...]


@dataclass(frozen=True)
class Page:
    """A report: title, introduction, sections."""

    title: str
    introduction: tuple[PageBlock, ...]
    sections: tuple[Section, ...] = field(default=())
