"""The tables of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from distillkit.comparison.arms import ComparedArm
from distillkit.comparison.differing_keys import value_text
from distillkit.comparison.exports import Latency
from distillkit.comparison.pictures import OUTCOMES
from distillkit.comparison.run_facts import RunFacts
from distillkit.comparison.spread import spread
from distillkit.messages.text import size_text
from distillkit.pages import Code, PageTable, PageText, Strong, TableRow

if TYPE_CHECKING:
    from distillkit.comparison.comparison import Comparison

ABSENT = "-"
BASELINE = "baseline"
UNRELIABLE = "*"
DIGITS = {"loss": 4}
"""Decimals of a figure by the last part of its name; others are in percent and have two."""


def all_tables(comparison: Comparison) -> tuple[PageTable, ...]:
    """The tables that are shown in a terminal."""
    made = (
        settings_table(comparison),
        figures_table(comparison),
        cost_table(comparison),
        files_table(comparison),
        latency_table(comparison),
        answers_table(comparison),
    )
    return tuple(table for table in made if table is not None)


def settings_table(comparison: Comparison) -> PageTable | None:
    """The keys in which the recipes differ, a column per arm; None if there is one arm."""
    keys = dict.fromkeys(key for arm in comparison.arms for key in arm.settings)
    if not keys:
        return None
    rows = [
        TableRow(
            (Code(key), *(value_text(arm.settings[key]) if key in arm.settings else ABSENT for arm in comparison.arms))
        )
        for key in keys
    ]
    names = [arm.name for arm in comparison.arms]
    return PageTable(
        "Keys in which the recipes differ", ("key", *names), tuple(rows), frozenset(range(1, 1 + len(names)))
    )


def figures_table(comparison: Comparison) -> PageTable:
    """Main figure of each arm, its difference from the baseline, and the other accuracies and losses."""
    main = comparison.main_figure
    others = [name for name in _shown(comparison) if name != main]
    headings = ["arm", "runs"] + ([main, "difference"] if main else []) + others
    rows = []
    for number, arm in enumerate(comparison.arms):
        cells: list[PageText] = [arm.name, str(len(arm.runs))]
        if main:
            cells += [Strong(figure_text(arm, main)), difference_text(comparison, arm, main)]
        cells += [figure_text(arm, name) for name in others]
        rows.append(TableRow(tuple(cells), colour=number))
    caption = "Figures" + (": mean ± sample standard deviation over the runs" if comparison.is_repeated else "")
    return PageTable(caption, tuple(map(_title, headings)), tuple(rows))


def every_figure_table(comparison: Comparison) -> PageTable:
    """All figures that can be compared, a column per arm."""
    names = comparison.figure_names()
    rows = [TableRow((Code(name), *(figure_text(arm, name) for arm in comparison.arms))) for name in names]
    return PageTable("All figures", ("figure", *(arm.name for arm in comparison.arms)), tuple(rows))


def runs_table(comparison: Comparison) -> PageTable:
    """Every run with its seed and its main figure."""
    main = comparison.main_figure
    rows = []
    for number, arm in enumerate(comparison.arms):
        for run in arm.runs:
            value = "" if main is None or main not in run.figures else f"{run.figures[main]:.2f}"
            cells = (Code(run.name), arm.name, str(run.settings["seed"]), value, _duration(run.result.duration_s))
            rows.append(TableRow(cells, colour=number))
    heading = "" if main is None else _title(main)
    return PageTable("Runs", ("run", "arm", "seed", heading or "figure", "time"), tuple(rows), frozenset({1}))


def cost_table(comparison: Comparison) -> PageTable:
    """Training time, speed and size of each arm."""
    columns: tuple[tuple[str, Callable[[RunFacts], float | None], Callable[[float], str]], ...] = (
        ("time", lambda run: run.result.duration_s, _duration),
        ("images/s", lambda run: run.images_per_s, lambda value: f"{value:,.0f}"),
        ("steps", lambda run: float(run.result.steps), lambda value: f"{value:,.0f}"),
        ("images seen", lambda run: float(run.images), lambda value: f"{value:,.0f}"),
        ("parameters", lambda run: float(run.plan.student.parameters), lambda value: f"{value:,.0f}"),
        ("student GFLOP", lambda run: run.plan.cost.student_gflop_per_image, lambda value: f"{value:.3g}"),
        ("teacher GFLOP", lambda run: run.plan.cost.teacher_gflop_per_image, lambda value: f"{value:.3g}"),
        ("run PFLOP", lambda run: run.plan.cost.run_pflop, lambda value: f"{value:.3g}"),
    )
    rows = [
        TableRow((arm.name, *(_mean(map(read, arm.runs), shown) for _, read, shown in columns)), colour=number)
        for number, arm in enumerate(comparison.arms)
    ]
    headings = ("arm", *(heading for heading, _, _ in columns))
    means = "means over the runs; " if comparison.is_repeated else ""
    return PageTable(f"Cost: {means}GFLOP of one forward pass of an image", headings, tuple(rows))


def files_table(comparison: Comparison) -> PageTable | None:
    """Sizes of exported files; None without any."""
    rows = []
    for number, arm in enumerate(comparison.arms):
        sizes: dict[str, list[int]] = {}
        for name, size in (each for run in arm.runs for export in run.exports for each in export.sizes.items()):
            sizes.setdefault(name, []).append(size)
        for name, of_runs in sizes.items():
            cells = (arm.name, name, size_text(round(sum(of_runs) / len(of_runs))), str(len(of_runs)))
            rows.append(TableRow(cells, colour=number))
    return PageTable("Exported files", ("arm", "file", "size", "runs"), tuple(rows), frozenset({1})) if rows else None


def latency_table(comparison: Comparison) -> PageTable | None:
    """Latencies of profiles, the same configuration of all arms together; None without any."""
    found: dict[tuple[str, str, int, str], dict[int, list[Latency]]] = {}
    for number, arm in enumerate(comparison.arms):
        for each in (each for run in arm.runs for export in run.exports for each in export.latencies):
            key = (each.machine, each.configuration, each.batch, each.mode)
            found.setdefault(key, {}).setdefault(number, []).append(each)
    rows = [
        TableRow(
            (comparison.arms[number].name, configuration, mode, machine, f"{batch:,}", *_latency(rates)), colour=number
        )
        for (machine, configuration, batch, mode), by_arm in sorted(found.items())
        for number, rates in by_arm.items()
    ]
    headings = ("arm", "configuration", "mode", "machine", "batch", "p50 ms", "images/s", "runs")
    return PageTable("Latency", headings, tuple(rows), frozenset({1, 2, 3})) if rows else None


def answers_table(comparison: Comparison) -> PageTable | None:
    """Numbers of images that an arm, the baseline, both or neither classify correctly; None without predictions."""
    if not comparison.disagreements:
        return None
    rows = [
        TableRow((each.arm, *(count.text(0 if each.pairs == 1 else 1) for count in each.counts), f"{each.images:,}"))
        for each in comparison.disagreements
    ]
    kinds = [kind.format(arm="this arm right", baseline="baseline right") for kind in OUTCOMES]
    caption = f"Answers on the {comparison.splits[0]} images, each arm against {comparison.baseline.name}"
    return PageTable(caption, ("arm", *kinds, "images"), tuple(rows))


def figure_text(arm: ComparedArm, name: str) -> str:
    """A figure of an arm as text."""
    return arm.figures[name].text(digits(name)) if name in arm.figures else ABSENT


def difference_text(comparison: Comparison, arm: ComparedArm, name: str) -> str:
    """The difference of an arm from the baseline as text."""
    if arm is comparison.baseline:
        return BASELINE
    found = comparison.difference(arm, name)
    return ABSENT if found is None else found.text(digits(name))


def digits(figure: str) -> int:
    """The decimals that a figure is shown with."""
    return DIGITS.get(figure.rpartition("/")[2], 2)


def text_lines(table: PageTable) -> Iterator[str]:
    """A table as aligned lines of text."""
    rows = [table.headings, *(tuple(map(plain, row.cells)) for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.headings))]
    yield table.caption
    for row in rows:
        cells = (
            text.ljust(width) if column == 0 or column in table.text_columns else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def plain(text: PageText) -> str:
    """A cell without emphasis."""
    parts: Sequence[str | Code | Strong] = (text,) if isinstance(text, str | Code | Strong) else text
    return "".join(part if isinstance(part, str) else part.text for part in parts)


def _shown(comparison: Comparison) -> list[str]:
    """The figures of the main table: top-1 of every split and student, then top-5 and loss of the first split."""
    names = comparison.figure_names()
    ends = {"top1": list(comparison.splits), "top5": list(comparison.splits[:1]), "loss": list(comparison.splits[:1])}
    wanted = [f"{split}/{end}" for end, splits in ends.items() for split in splits]
    with_ema = [f"{split}/ema/top1" for split in comparison.splits]
    return [
        name
        for name in (*wanted[: len(comparison.splits)], *with_ema, *wanted[len(comparison.splits) :])
        if name in names
    ]


def _title(name: str) -> str:
    """A figure for people: "test top-1 %"."""
    titles = {"top1": "top-1 %", "top5": "top-5 %", "loss": "loss"}
    split, _, end = name.rpartition("/")
    return f"{split.replace('/', ' ').replace('ema', 'EMA')} {titles[end]}" if end in titles and split else name


def _mean(values: Iterable[float | None], shown: Callable[[float], str]) -> str:
    found = spread(value for value in values if value is not None)
    return ABSENT if found is None else shown(found.mean)


def _duration(seconds: float | None) -> str:
    """Seconds as h:mm:ss, or m:ss."""
    if seconds is None:
        return ABSENT
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _latency(rates: Sequence[Latency]) -> tuple[str, str, str]:
    """Median latency, images per second, and number of runs."""
    p50 = spread(each.p50_ms for each in rates)
    speed = spread(each.images_per_s for each in rates if each.images_per_s is not None)
    mark = "" if all(each.is_reliable for each in rates) else UNRELIABLE
    return (
        ABSENT if p50 is None else f"{p50.mean:.3g}{mark}",
        ABSENT if speed is None else f"{speed.mean:,.0f}{mark}",
        str(len(rates)),
    )
