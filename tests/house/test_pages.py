"""Markdown pages with names of third parties: no HTML, no link, no image, and tables of equal width."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from markdown_it import MarkdownIt

from distillkit import BrokenImage, Incidents
from distillkit.messages.text import markdown_text
from distillkit.pages import as_markdown
from distillkit_export.gate.report import page
from distillkit_plugins.trackers.attention_section import _title
from distillkit_plugins.trackers.gradient_norms_section import gradient_norms_table
from distillkit_plugins.trackers.report import _run_table, report_page

HOSTILE = [
    "<img src=http://a/b.png>",
    "<script>alert(1)</script>",
    "![x](http://a/b.png)",
    "[x](javascript:alert(1))",
    r"\[x](http://a)",
    "a|b|c",
    "a\n\n# heading",
    "a\n![x][y]\n\n[y]: http://a",
    "&lt;b>",
    "` <img src=x>",
    "\\",
    "c\udcff",
]


def tokens(text):
    """The kinds of all inline and block tokens of a page."""
    parsed = MarkdownIt("commonmark").enable("table").parse(text)
    return {each.type for token in parsed for each in (token, *(token.children or ()))}


def widths(text):
    """The number of cells of every row of every table."""
    parsed = MarkdownIt("commonmark").enable("table").parse(text)
    rows, cells = [], 0
    for token in parsed:
        cells += token.type in {"td_open", "th_open"}
        if token.type == "tr_close":
            rows, cells = [*rows, cells], 0
    return set(rows)


FORBIDDEN = {"html_block", "html_inline", "link_open", "image"}


@pytest.mark.parametrize("name", HOSTILE)
def test_text_is_shown_as_it_is(name):
    """Promise: names of classes, files and models are text.

    Attempt: a name that is HTML, a link, an image, or the end of a cell.
    """
    shown = MarkdownIt("commonmark").enable("table").parse(f"- {markdown_text(name)}")
    assert not FORBIDDEN & tokens(f"- {markdown_text(name)}")
    if "`" not in name and name.isprintable():
        assert "".join(each.content for token in shown for each in token.children or ()) == name
    assert widths(f"| a | b |\n| --- | --- |\n| {markdown_text(name)} | 1 |") == {2}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_report_of_a_run_shows_names_as_they_are(name):
    """Promise: names of classes, files and models are text.

    Attempt: a recipe whose data set, class, loss, teacher or note is HTML, a link or an image.
    """
    model = {"name": name, "parameters": 1, "image_size": [8, 8], "sees": [8, 8], "licence": name, "starts_from": name}
    plan = {
        "student": model | {"layers": 1, "width": 8, "heads": 2, "grid": [2, 2]},
        "teachers": [model | {"validation": {"size": [8, 8], "images": 1, "top1": 9.0, "other_sizes": {}}}],
        "data": {"train": name, "images": 1, "labelled": 1},
        "loss": name,
        "samples_per_step": 1,
        "cost": {"student_gflop_per_image": 1.0, "teacher_gflop_per_image": 1.0},
        "learning_rate": 0.1,
        "seed": 0,
        "precision": "fp32",
        "device": "cpu",
        "notes": [name],
    }
    steps = [{"step": step, f"grad_norm/{name}": 1.0, "grad_norm/b": 1.0} for step in range(3)]
    facts = {"started": "2026-01-01T00:00:00+00:00", "command": name}
    incidents = Incidents([BrokenImage("test", "a.png", "empty", "why")])
    incidents.lost_classes["test"] = (name,)
    run = SimpleNamespace(plan=plan, steps=1, incidents=incidents, read_json=lambda _: facts)
    losses = _run_table(run, [{"step": 1, f"loss/{name}": 1.0}])
    whole = report_page(run, {}, ([], []), [])
    text = as_markdown(replace(whole, introduction=(*whole.introduction, losses, gradient_norms_table(steps))))
    assert not FORBIDDEN & tokens(text)
    assert widths(text) == {6, 4, 2}


def test_the_caption_of_an_attention_figure_is_one_image():
    """Promise: names of classes, files and models are text.

    Attempt: a class whose name ends the caption and begins another image.
    """
    samples = SimpleNamespace(split="test", keys=["a](b)![c"], labels=[0])
    caption = markdown_text(_title(samples, 0, ["x](http://a/b.png)\n\n<img src=y>"]))
    parsed = MarkdownIt("commonmark").parse(f"![{caption}](attention/test-1.png)")
    (image,) = [each for token in parsed for each in token.children or () if each.type != "text"]
    assert (image.type, image.attrs["src"]) == ("image", "attention/test-1.png")


@pytest.mark.parametrize("name", HOSTILE)
def test_the_page_of_the_gate_shows_names_as_they_are(name):
    """Promise: names of classes, files and models are text.

    Attempt: an image folder or an exporter whose name is HTML, a link or an image.
    """
    artifact = SimpleNamespace(file=name, format=name, precision="fp32", made_with={})
    checked = [SimpleNamespace(finding=name, name=name)]
    verdict = SimpleNamespace(
        artifact=artifact, parity=None, relative_latency=None, bytes=1, outcome="failed", kept=True, checks=checked
    )
    verdict.latency_caveats = ()
    verdict.reason = verdict.failure = name
    images = SimpleNamespace(source=name, pixels=[1], weak=False, note=name)
    text = page([verdict], SimpleNamespace(name=name, images=images, note=name, classes=True))
    assert not FORBIDDEN & tokens(text)
    assert widths(text) == {8, 6}
