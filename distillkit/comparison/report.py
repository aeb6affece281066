"""The page of a comparison, for Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterator

from distillkit.comparison.comparison import Comparison
from distillkit.comparison.curves import curves
from distillkit.comparison.per_class import PerClass
from distillkit.comparison.pictures import Disagreement, Example
from distillkit.comparison.tables import (
    ABSENT,
    answers_table,
    cost_table,
    every_figure_table,
    figures_table,
    files_table,
    latency_table,
    runs_table,
    settings_table,
)
from distillkit.messages.text import counted
from distillkit.pages import (
    Bullets,
    DotPlot,
    Dots,
    Gallery,
    Page,
    PageBlock,
    PageTable,
    Paragraph,
    Picture,
    Section,
    Strong,
    TableRow,
    Thumbnail,
)

STRONGEST_SHADE = 10.0
"""Difference in percentage points from which a cell has the strongest background."""
BANDS = "Lines are means over the runs of an arm; bands reach from the lowest to the highest run. "
OWN_LOSS = "The training loss of an arm is the weighted sum of its own terms, so it is not comparable between losses."


def comparison_page(comparison: Comparison) -> Page:
    """Everything that a comparison shows, in the order in which it is read."""
    sections = [
        Section("Results", tuple(_results(comparison))),
        Section("What differs", tuple(_settings(comparison))),
        Section("Curves", tuple(_curves(comparison))),
        Section("Per class", tuple(_per_class(comparison))),
        Section("Answers", tuple(_answers(comparison))),
        Section("Cost", (cost_table(comparison),)),
        Section("Latency and size", tuple(_exports(comparison))),
        Section("All figures", (every_figure_table(comparison),)),
        Section("Runs", (runs_table(comparison), *_left_out(comparison))),
        Section("Notes", (Bullets(comparison.notes),) if comparison.notes else ()),
    ]
    arms, runs = counted(len(comparison.arms), "arm"), counted(len(comparison.runs), "run")
    data = comparison.runs[0].plan.data.train
    return Page(
        f"Comparison of {arms} on {data}" if len(comparison.arms) > 1 else f"{runs.capitalize()} on {data}",
        tuple(_introduction(comparison, arms, runs)),
        tuple(section for section in sections if section.blocks),
    )


def _introduction(comparison: Comparison, arms: str, runs: str) -> Iterator[PageBlock]:
    main = comparison.main_figure
    best = max(
        (arm for arm in comparison.arms if main in arm.figures),
        key=lambda arm: arm.figures[main or ""].mean,
        default=None,
    )
    if main is not None and best is not None and len(comparison.arms) > 1:
        found = comparison.difference(best, main)
        against = (
            ""
            if best is comparison.baseline or found is None
            else f", {found.text()} percentage points from {comparison.baseline.name}"
        )
        name = main.replace("/top1", " top-1")
        yield Paragraph(("Best mean ", name, ": ", Strong(best.name), f", {best.figures[main].text()} %{against}."))
    student = comparison.runs[0].plan.student.name
    students = {run.plan.student.name for run in comparison.runs}
    which = f" of student {student}" if len(students) == 1 else ""
    yield Paragraph(f"{runs}{which} in {arms}, compared {comparison.made[:16].replace('T', ' ')} UTC.", is_minor=True)


def _results(comparison: Comparison) -> Iterator[PageBlock]:
    main = comparison.main_figure
    if main is not None:
        rows = [
            Dots(
                arm.name,
                tuple((f"seed {run.seed[0]}", run.figures[main]) for run in arm.runs if main in run.figures),
                number,
                f"{figure.text()} %",
                figure.mean,
                figure.mean - (figure.deviation or 0),
                figure.mean + (figure.deviation or 0),
            )
            for number, arm in enumerate(comparison.arms)
            if (figure := arm.figures.get(main))
        ]
        with_spread = ", with mean and standard deviation" if comparison.is_repeated else ""
        title = f"{main.replace('/top1', ' top-1').capitalize()} of every run{with_spread}"
        yield DotPlot(title, "%", tuple(rows))
    yield figures_table(comparison)
    if len(comparison.arms) > 1:
        pairs = (
            ": mean ± sample standard deviation of the differences between runs of the same seed"
            if comparison.is_repeated
            else ""
        )
        yield Paragraph(f"Differences are from {comparison.baseline.name}, in percentage points{pairs}.", is_minor=True)


def _settings(comparison: Comparison) -> Iterator[PageBlock]:
    table = settings_table(comparison)
    if table is not None:
        yield table
        yield Paragraph(
            "Seeds are not listed: runs that differ only by seed are repetitions of one arm.", is_minor=True
        )


def _curves(comparison: Comparison) -> Iterator[PageBlock]:
    charts = tuple(curves(comparison.arms, comparison.splits))
    yield from charts
    if charts:
        yield Paragraph(f"{BANDS * comparison.is_repeated}{OWN_LOSS}", is_minor=True)


def _per_class(comparison: Comparison) -> Iterator[PageBlock]:
    if comparison.per_class is not None:
        yield _per_class_table(comparison, comparison.per_class)
        if len(comparison.arms) > 1:
            yield Paragraph(
                f"On the HTML page, cells are coloured by their difference from {comparison.baseline.name}, most "
                f"strongly from {STRONGEST_SHADE:g} percentage points.",
                is_minor=True,
            )


def _per_class_table(comparison: Comparison, found: PerClass) -> PageTable:
    rows: list[TableRow] = []
    shades: list[tuple[float | None, ...]] = []
    for name, by_arm in found.accuracy.items():
        cells, of_row = [name], list[float | None]([None])
        for arm in comparison.arms:
            own, base = by_arm.get(arm.name), by_arm.get(comparison.baseline.name)
            cells.append(ABSENT if own is None else own.text(1))
            of_row.append(None if own is None or base is None else (own.mean - base.mean) / STRONGEST_SHADE)
        rows.append(TableRow(tuple(cells)))
        shades.append(tuple(of_row))
    headings = ("class", *(arm.name for arm in comparison.arms))
    return PageTable(f"Top-1 % of each class on the {found.split} images", headings, tuple(rows), shades=tuple(shades))


def _answers(comparison: Comparison) -> Iterator[PageBlock]:
    table = answers_table(comparison)
    if table is None:
        return
    yield table
    pairs = max(each.pairs for each in comparison.disagreements)
    if pairs > 1:
        yield Paragraph(
            f"Means ± sample standard deviation over {pairs} pairs of runs of the same seed. Next to the class of a "
            "picture is the number of pairs that agree, whose most frequent answers are shown.",
            is_minor=True,
        )
    for each in comparison.disagreements:
        yield from _galleries(each)


def _galleries(found: Disagreement) -> Iterator[PageBlock]:
    for right, wrong, examples in (
        (found.arm, found.baseline, found.only_arm),
        (found.baseline, found.arm, found.only_baseline),
    ):
        if examples:
            thumbnails = tuple(_thumbnail(each, found, arm_is_right=right == found.arm) for each in examples)
            yield Gallery(f"Right with {right}, wrong with {wrong}", thumbnails)


def _thumbnail(example: Example, found: Disagreement, *, arm_is_right: bool) -> Thumbnail:
    agreed = f" ({example.pairs} of {found.pairs})" if found.pairs > 1 else ""
    alt = f"{example.key}, class {example.label}"
    lines = (
        ("class", f"{example.label}{agreed}", None),
        (found.baseline, example.baseline_answer, not arm_is_right),
        (found.arm, example.arm_answer, arm_is_right),
    )
    return Thumbnail(Picture(alt, example.picture), lines)


def _exports(comparison: Comparison) -> Iterator[PageBlock]:
    yield from filter(None, (files_table(comparison), latency_table(comparison)))


def _left_out(comparison: Comparison) -> Iterator[PageBlock]:
    if comparison.left_out:
        yield Paragraph("Left out:")
        yield Bullets(tuple(f"{each.name}: {each.reason}" for each in comparison.left_out))
