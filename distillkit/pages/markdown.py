"""A report as Markdown. Charts that only a page can show are left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import quote

from distillkit.messages.text import markdown_text, printable_lines, visible
from distillkit.pages.content import (
    Bullets,
    Code,
    Gallery,
    LineChart,
    Listing,
    Page,
    PageBlock,
    PageTable,
    PageText,
    Paragraph,
    Picture,
    Strong,
    TableRow,
)

RIGHT, WRONG = " (right)", " (wrong)"


def as_markdown(page: Page) -> str:
    """The page as the text of a Markdown file."""
    parts = [f"# {markdown_text(page.title)}", *_blocks(page.introduction)]
    for section in page.sections:
        # Remarks on charts are left out with the charts.
        if list(_blocks([block for block in section.blocks if not (isinstance(block, Paragraph) and block.is_minor)])):
            parts += [f"## {markdown_text(section.title)}", *_blocks(section.blocks)]
    return "\n\n".join(parts) + "\n"


def _blocks(blocks: Sequence[PageBlock]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Paragraph):
            yield _text(block.text)
        elif isinstance(block, Bullets):
            yield "\n".join(f"- {_text(item)}" for item in block.items)
        elif isinstance(block, Listing):
            yield f"```\n{printable_lines(block.text)}\n```"
        elif isinstance(block, PageTable):
            yield from _table(block)
        elif isinstance(block, Gallery):
            yield from _table(_as_table(block))
        elif isinstance(block, Picture):
            yield _picture(block)
        elif isinstance(block, LineChart) and block.instead is not None:
            yield _picture(block.instead)


def _table(table: PageTable) -> Iterator[str]:
    if table.caption:
        yield f"**{markdown_text(table.caption)}**"
    numbers = (column > 0 and column not in table.text_columns for column in range(len(table.headings)))
    headings = "".join(f" {markdown_text(heading)} |" if heading else " |" for heading in table.headings)
    lines = [f"|{headings}", f"| {' | '.join('---:' if is_number else '---' for is_number in numbers)} |"]
    lines += [f"| {' | '.join(map(_cell, row.cells))} |" for row in table.rows]
    yield "\n".join(lines)


def _as_table(gallery: Gallery) -> PageTable:
    """The texts of a gallery."""
    marks = {True: RIGHT, False: WRONG, None: ""}
    headings = [heading for heading, _, _ in gallery.thumbnails[0].lines] if gallery.thumbnails else []
    rows = [
        TableRow((each.picture.alt, *(text + marks[is_right] for _, text, is_right in each.lines)))
        for each in gallery.thumbnails
    ]
    columns = ("image", *headings)
    return PageTable(gallery.caption, columns, tuple(rows), frozenset(range(len(columns))))


def _picture(picture: Picture) -> str:
    return f"![{markdown_text(picture.alt)}]({quote(picture.path)})"


def _cell(text: PageText) -> str:
    """Text in a cell of a table, where a bar needs a backslash also inside code."""
    parts = (text,) if isinstance(text, str | Code | Strong) else text
    return "".join(_inline(part).replace("|", r"\|") if isinstance(part, Code) else _inline(part) for part in parts)


def _text(text: PageText) -> str:
    parts = (text,) if isinstance(text, str | Code | Strong) else text
    return "".join(map(_inline, parts))


def _inline(part: str | Code | Strong) -> str:
    if isinstance(part, Code):
        code = visible(part.text).replace("`", "").strip()  # a backtick would end the code
        return f"`{code}`" if code else ""
    return f"**{markdown_text(part.text)}**" if isinstance(part, Strong) else markdown_text(part)
