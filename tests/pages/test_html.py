"""HTML pages: every text is escaped, nothing is loaded, and the structure is one that assistive programs can read."""

import re
import string
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillkit.messages.text import visible
from distillkit.pages import (
    Bullets,
    Code,
    DotPlot,
    Dots,
    Gallery,
    Line,
    LineChart,
    Listing,
    Page,
    PageTable,
    Paragraph,
    Picture,
    Section,
    Strong,
    TableRow,
    Thumbnail,
    as_html,
    as_markdown,
)

HOSTILE = "</style></title><script>alert(1)</script><img src=x onerror=alert(1)>\"'&lt;\n\x1b[2J\u202e"
PNG = b"\x89PNG\r\n\x1a\n"


def page_of(text, number=1.0):
    """A page with `text` wherever a text may stand."""
    line = Line(text, ((0.0, number), (1.0, 2.0)), 0, band=((0.0, 0.5, 2.0), (1.0, 1.5, 2.5)))
    other = Line(text + text, ((0.0, 2.0),), 9)
    blocks = (
        Paragraph((text, Code(text), Strong(text))),
        Paragraph(text, is_minor=True),
        Bullets((text, Code(text))),
        Listing(text),
        PageTable(
            text, (text, text), (TableRow((text, Code(text)), colour=3), TableRow((text, Strong(text)))), frozenset({1})
        ),
        PageTable("", ("", ""), (TableRow((text, text)),), shades=((None, -0.5),), label=text),
        Picture(text, PNG, text),
        LineChart(text, text, text, (line, other), is_logarithmic=number > 0),
        DotPlot(text, text, (Dots(text, ((text, 1.0), (text, 3.0)), 0, text, 2.0, 1.0, 3.0),)),
        Gallery(text, (Thumbnail(Picture(text, PNG), ((text, text, True), (text, text, False), (text, text, None))),)),
    )
    return Page(text, blocks, (Section(text, blocks), Section(text, ())))


class Reader(HTMLParser):
    """Collects the tags, their attributes, and the text of a page, as a browser sees them."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    def values(self, name):
        return [value for _, each, value in self.attributes if each == name]


def structure(html):
    """The page without its texts: tags and the names of their attributes."""
    reader = Reader(html)
    assert reader.open == []
    return reader.tags, [(tag, name) for tag, name, _ in reader.attributes]


@settings(max_examples=40)
@given(st.text(string.printable + "\x00\x1b\x85\u2028\u202e\ufeff<>&\"'é日", min_size=1))
def test_no_text_changes_the_structure_of_a_page(text):
    assert structure(as_html(page_of(text))) == structure(as_html(page_of("cat")))


def test_a_hostile_text_is_read_back_as_it_is():
    html = as_html(page_of(HOSTILE))
    assert "\x1b" not in html
    reader = Reader(html)
    assert "script" not in reader.tags
    texts = reader.texts
    assert texts.count(visible(HOSTILE)) > 10
    assert any(visible(HOSTILE.partition("\n")[0]) in text for text in texts)  # a listing keeps its line breaks


def test_a_page_loads_nothing():
    reader = Reader(as_html(page_of("cat")))
    assert "script" not in reader.tags
    assert "link" not in reader.tags
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert all(source.startswith("data:image/") for source in reader.values("src"))
    assert all(target.startswith("#") for target in reader.values("href"))
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in reader.values("content")
    style = as_html(page_of("cat")).partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"url\(|@import|https?:", style)


def test_what_assistive_programs_need():
    reader = Reader(as_html(page_of("cat")))
    assert reader.values("lang") == ["en"]
    assert reader.tags.count("h1") == 1
    assert reader.tags.count("main") == 1
    assert [tag for tag in reader.tags if re.fullmatch("h[1-6]", tag)][:2] == ["h1", "h3"]
    ids = reader.values("id")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in reader.values("href")} <= set(ids)
    assert set(reader.values("aria-labelledby")) <= set(ids)
    assert reader.tags.count("img") == len(reader.values("alt"))
    assert {"caption", "th"} <= set(reader.tags)
    assert set(reader.values("scope")) == {"col", "row"}
    # Wide tables and code can be scrolled with the keyboard.
    assert reader.values("tabindex") == ["0"] * (reader.tags.count("table") + reader.tags.count("pre"))
    drawings = [(tag, name) for tag, name, _ in reader.attributes if tag == "svg"]
    assert drawings.count(("svg", "aria-label")) + drawings.count(("svg", "aria-hidden")) == reader.tags.count("svg")


def test_a_chart_in_words():
    chart = LineChart("Loss", "step", "loss", (Line("a", ((0.0, 3.0), (8.0, 1.25)), 0), Line("b", ((0.0, 2.0),), 1)))
    html = as_html(Page("t", (chart,)))
    assert 'aria-label="Line chart of loss over step. Last values: a 1.25, b 2."' in html
    assert "<title>a: 1.25 at 8</title>" in html


def test_points_of_a_line_are_where_they_belong():
    # The plot is 380 - 48 - 10 = 322 wide and 250 - 10 - 40 = 200 high; both axes reach from 0 to 10.
    chart = LineChart("t", "x", "y", (Line("a", ((0.0, 0.0), (5.0, 10.0), (10.0, 2.5)), 0),))
    assert 'points="48,210 209,10 370,160"' in as_html(Page("t", (chart,)))


@pytest.mark.parametrize(
    "points", [(), ((0.0, float("nan")),), ((float("inf"), 1.0),)], ids=["none", "nan", "infinite"]
)
def test_a_chart_without_a_point_is_left_out(points):
    html = as_html(Page("t", (LineChart("Loss", "step", "loss", (Line("a", points, 0),)),)))
    assert "Loss" not in html


def test_a_logarithmic_chart_leaves_out_what_it_cannot_show():
    chart = LineChart("t", "x", "y", (Line("a", ((0.0, 0.0), (1.0, 10.0), (2.0, -1.0)), 0),), is_logarithmic=True)
    assert as_html(Page("t", (chart,))).count("<circle") == 1


def test_a_long_line_is_thinned():
    chart = LineChart("t", "x", "y", (Line("a", tuple((float(x), float(x)) for x in range(10_001)), 0),))
    points = re.search(r'points="([^"]*)"', as_html(Page("t", (chart,))))[1].split()
    assert (len(points), points[0], points[-1]) == (300, "48,210", "370,10")


def test_a_legend_is_shared_by_charts_of_the_same_lines():
    lines = (Line("a", ((0.0, 1.0),), 0), Line("b", ((0.0, 2.0),), 1))
    same = as_html(Page("t", (LineChart("one", "x", "y", lines), LineChart("two", "x", "y", lines))))
    other = as_html(
        Page(
            "t", (LineChart("one", "x", "y", lines), LineChart("two", "x", "y", (*lines, Line("c", ((0.0, 1.0),), 2))))
        )
    )
    assert (same.count('aria-label="Legend"'), other.count('aria-label="Legend"')) == (1, 2)


def test_pages_are_the_same_every_time():
    assert as_html(page_of("cat")) == as_html(page_of("cat"))


@settings(max_examples=40)
@given(st.text(string.printable + "\x00\x1b\u2028|\\`<>[]", min_size=1))
def test_no_text_changes_the_structure_of_markdown(text):
    page = re.sub("```\n.*?\n```", "", as_markdown(page_of(text)), flags=re.DOTALL)
    tables = [line for line in page.split("\n") if line.startswith("|")]
    # GitHub splits a row at every bar without a backslash before it, also inside code.
    bars = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in tables]
    # Four tables, introduction and section: 2 headings and a rule, 2 rows, 1 row without headings, 4 of the gallery.
    of_tables = [3] * 4 + [3] * 3 + [5] * 3
    assert bars == of_tables * 2
    assert not re.search(r"(?<!\\)<[a-zA-Z/!]", re.sub("`[^`]*`", "", page))
