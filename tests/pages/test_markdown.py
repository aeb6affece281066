"""Markdown of a page."""

from distillkit.pages import (
    Bullets,
    Code,
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
    as_markdown,
)

CHART = LineChart("Loss", "step", "loss", (Line("a", ((0.0, 1.0),), 0),), instead=Picture("loss", b"", "curves.png"))


def test_every_kind_of_block():
    examples = Gallery(
        "Wrong", (Thumbnail(Picture("a.png, class cat", b""), (("class", "cat", None), ("ce", "dog", False))),)
    )
    page = Page(
        "Run <1>",
        (
            Paragraph(
                ("Best: ", Strong("a|b"), ", kept in ", Code("best/"), "."),
            ),
        ),
        (
            Section(
                "Table",
                (PageTable("Accuracy", ("split", "top-1"), (TableRow(("test", "97.2")),)), Bullets(("one", "two"))),
            ),
            Section("Chart", (CHART, Listing("distillkit run\ndistillkit export"))),
            Section("Pictures", (examples,)),
        ),
    )
    assert (
        as_markdown(page)
        == """\
# Run &lt;1>

Best: **a\\|b**, kept in `best/`.

## Table

**Accuracy**

| split | top-1 |
| --- | ---: |
| test | 97.2 |

- one
- two

## Chart

![loss](curves.png)

```
distillkit run
distillkit export
```

## Pictures

**Wrong**

| image | class | ce |
| --- | --- | --- |
| a.png, class cat | cat | dog (wrong) |
"""
    )


def test_a_section_of_charts_is_left_out_with_its_remarks():
    chart = LineChart("Loss", "step", "loss", CHART.lines)
    page = Page("Run", (), (Section("Curves", (chart, Paragraph("Lines are means.", is_minor=True))),))
    assert as_markdown(page) == "# Run\n"
