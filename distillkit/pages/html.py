"""A report as one HTML page: styles, charts and pictures are inside it, and it has no script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from xml.etree.ElementTree import Element

from distillkit.messages.text import printable_lines
from distillkit.pages.content import (
    Bullets,
    DotPlot,
    Gallery,
    LineChart,
    Listing,
    Page,
    PageBlock,
    PageTable,
    Paragraph,
    Picture,
    Section,
    TableRow,
    Thumbnail,
)
from distillkit.pages.dot_plot import dot_plot
from distillkit.pages.elements import element, image, number, rich, write
from distillkit.pages.line_chart import line_chart, series_class
from distillkit.storage.untrusted import read_plain_text
from distillkit.version import __version__

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Forbids a browser to load anything or to run a script, whatever the page contains."""


def as_html(page: Page) -> str:
    """The page as the text of an HTML file."""
    sections = [(f"section-{number}", section) for number, section in enumerate(page.sections, start=1)]
    links = [element("li", element("a", section.title, href=f"#{name}")) for name, section in sections]
    navigation = [element("nav", element("ul", *links), aria_label="Sections")] if len(links) > 1 else []
    body = element(
        "body",
        element("a", "Skip to the content", href="#content", class_="skip"),
        element("header", element("h1", page.title), *_blocks(page.introduction), *navigation),
        element("main", *(_section(name, section) for name, section in sections), id="content"),
        element("footer", f"Made with distillkit {__version__}."),
    )
    return f"<!doctype html>\n{write(element('html', _head(page.title), body, lang='en'))}\n"


def _head(title: str) -> Element:
    style = element("style")
    style.text = _style()  # our own text, which a browser reads unescaped
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        style,
    )


@cache
def _style() -> str:
    return read_plain_text(STYLE)


def _section(name: str, section: Section) -> Element:
    heading = element("h2", section.title, id=f"{name}-title")
    return element("section", heading, *_blocks(section.blocks), id=name, aria_labelledby=f"{name}-title")


def _blocks(blocks: Sequence[PageBlock]) -> Iterator[Element]:
    for is_chart, group in groupby(blocks, key=lambda block: isinstance(block, LineChart)):
        if is_chart:
            yield from _charts([chart for chart in group if isinstance(chart, LineChart)])
        else:
            yield from (made for block in group if (made := _block(block)) is not None)


def _charts(charts: Sequence[LineChart]) -> Iterator[Element]:
    """Charts in a grid below one legend, if they have the same lines, else each with its own."""
    drawn = [(chart, figure) for chart in charts if (figure := line_chart(chart)) is not None]
    legends = {chart.title: _legend(chart) for chart, _ in drawn}
    shared = {tuple(names) for names in legends.values()}
    if len(shared) == 1:
        yield from _legend_list(next(iter(shared)))
    else:
        for chart, figure in drawn:
            figure.extend(_legend_list(legends[chart.title]))
    if drawn:
        yield element("div", *(figure for _, figure in drawn), class_="charts")


def _legend(chart: LineChart) -> tuple[tuple[str, int], ...]:
    return tuple(dict.fromkeys((line.name, line.colour) for line in chart.lines if not line.is_faint))


def _legend_list(lines: Sequence[tuple[str, int]]) -> Iterator[Element]:
    if len(lines) > 1:
        items = [element("li", _swatch(colour), name) for name, colour in lines]
        yield element("ul", *items, class_="legend", aria_label="Legend")


def _swatch(colour: int) -> Element:
    stroke = element("line", x1=1, x2=21, y1=6, y2=6, class_=f"line {series_class(colour)}")
    return element("svg", stroke, viewBox="0 0 22 12", class_="swatch", aria_hidden="true")


def _block(block: PageBlock) -> Element | None:  # noqa: PLR0911 - one return per kind of block
    if isinstance(block, Paragraph):
        return rich("p", block.text, **({"class_": "minor"} if block.is_minor else {}))
    if isinstance(block, Bullets):
        return element("ul", *(rich("li", item) for item in block.items), class_="bullets")
    if isinstance(block, Listing):
        return _listing(block)
    if isinstance(block, PageTable):
        return _table(block)
    if isinstance(block, Picture):
        return element("figure", image(block), class_="picture")
    if isinstance(block, DotPlot):
        return dot_plot(block)
    if isinstance(block, Gallery):
        return _gallery(block)
    return line_chart(block)


def _listing(listing: Listing) -> Element:
    code = element("code")
    code.text = printable_lines(listing.text)
    return element("pre", code, tabindex=0)


def _table(table: PageTable) -> Element:
    """A table that scrolls sideways by itself where it is too wide, also with the keyboard."""
    parts = [element("caption", table.caption)] if table.caption else []
    if any(table.headings):
        cells = [_heading(table, column, text) for column, text in enumerate(table.headings)]
        parts.append(element("thead", element("tr", *cells)))
    shades = table.shades or tuple((None,) * len(row.cells) for row in table.rows)
    rows = [_row(table, row, of_row) for row, of_row in zip(table.rows, shades, strict=True)]
    kind = {"class_": "shaded"} if table.shades else {}
    made = element("table", *parts, element("tbody", *rows), **kind)
    return element("div", made, class_="scroll", tabindex=0, role="region", aria_label=table.caption or table.label)


def _heading(table: PageTable, column: int, text: str) -> Element:
    return element("th", text, scope="col", **_cell_class(table, column)) if text else element("td")


def _row(table: PageTable, row: TableRow, shades: Sequence[float | None]) -> Element:
    first, *others = row.cells
    heading = rich("th", first, scope="row")
    if row.colour is not None:
        heading.insert(0, _swatch(row.colour))
        heading[0].tail, heading.text = heading.text, None
    cells = [
        rich("td", text, **_cell_class(table, column), **_shade(shade))
        for (column, text), shade in zip(enumerate(others, start=1), shades[1:], strict=True)
    ]
    return element("tr", heading, *cells)


def _cell_class(table: PageTable, column: int) -> dict[str, str]:
    return {} if column == 0 or column in table.text_columns else {"class_": "number"}


def _shade(shade: float | None) -> dict[str, str]:
    """A background for a cell: stronger for a larger share, of another colour below 0."""
    if not shade:
        return {}
    return {"style": f"--share:{number(100 * min(1.0, abs(shade)))}%", "data-sign": "more" if shade > 0 else "less"}


def _gallery(gallery: Gallery) -> Element:
    figures = [element("li", _thumbnail(thumbnail)) for thumbnail in gallery.thumbnails]
    caption = element("h3", gallery.caption)
    return element("div", caption, element("ul", *figures, class_="gallery"))


def _thumbnail(thumbnail: Thumbnail) -> Element:
    lines = []
    for heading, text, is_right in thumbnail.lines:
        mark = {True: " ✓", False: " ✗", None: ""}[is_right]
        kind = {True: "right", False: "wrong", None: "neither"}[is_right]
        lines.append(element("div", element("dt", heading), element("dd", text + mark, class_=kind)))
    return element("figure", image(thumbnail.picture, loading="lazy"), element("dl", *lines))
