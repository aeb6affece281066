"""Reports as Markdown and as self-contained HTML pages, from one description of their content.

A tracker plugin may import these names. A page needs no file and no script, adapts to light and dark displays and to
the width of a phone, and prints. All text is escaped.
"""

from distillkit.pages.content import (
    Bullets,
    Code,
    DotPlot,
    Dots,
    Gallery,
    Line,
    LineChart,
    Listing,
    Page,
    PageBlock,
    PageTable,
    PageText,
    Paragraph,
    Picture,
    Section,
    Strong,
    TableRow,
    Thumbnail,
)
from distillkit.pages.html import as_html
from distillkit.pages.markdown import as_markdown

__all__ = [
    "Bullets",
    "Code",
    "DotPlot",
    "Dots",
    "Gallery",
    "Line",
    "LineChart",
    "Listing",
    "Page",
    "PageBlock",
    "PageTable",
    "PageText",
    "Paragraph",
    "Picture",
    "Section",
    "Strong",
    "TableRow",
    "Thumbnail",
    "as_html",
    "as_markdown",
]
