"""A profile as a Markdown page: machine, one table per batch size and mode, caveats, and what was not measured."""

from __future__ import annotations

from collections.abc import Iterator

from distillkit.compute.busy_machine import CAVEAT_MARK
from distillkit.compute.machine import machine_line
from distillkit.compute.paired_ratio import Ratio
from distillkit.messages.text import markdown_text
from distillkit_export.profiling.schema import (
    ConfigurationCard,
    ProfileCard,
    RatioCard,
    RowCard,
)

MODE_TITLES = {"compute": "compute only", "e2e": "end to end"}


def markdown(card: ProfileCard) -> str:
    """The page."""
    return "\n".join(_lines(card)) + "\n"


def _lines(card: ProfileCard) -> Iterator[str]:
    yield f"# Profile of {', '.join(markdown_text(subject.name) for subject in card.subjects)}"
    yield ""
    yield markdown_text(f"Measured {card.made} on {machine_line(card.machine)}.")
    yield ""
    method = card.method
    yield markdown_text(
        f"{method.seconds:g} s in {method.rounds} interleaved rounds for each row, after a warm-up {method.warm_up}; "
        f"percentiles are {method.percentiles}. The ratio is to {card.baseline}, taken round by round, with the 95 % "
        "interval of its median."
    )
    for mode in sorted({row.mode for row in card.rows}):
        yield ""
        yield f"*{MODE_TITLES[mode]}*: {markdown_text(method.modes[mode])}."
    for batch in sorted({row.batch for row in card.rows}):
        for mode in sorted({row.mode for row in card.rows if row.batch == batch}):
            yield from ["", f"## Batch {batch}, {MODE_TITLES[mode]}", ""]
            yield from _table(card, [row for row in card.rows if (row.batch, row.mode) == (batch, mode)])
    yield from ["", "## Configurations", ""]
    yield from _configurations(card)
    if card.best:
        yield from ["", "## Best setting", ""]
        yield from (f"- {markdown_text(line)}" for line in best_lines(card))
    caveats = list(caveat_lines(card))
    if caveats:
        yield from ["", "## Caveats", ""]
        yield from (f"- {markdown_text(line)}" for line in caveats)
    if card.skipped:
        yield from ["", "## Not measured", ""]
        yield from (f"- {markdown_text(line)}" for line in card.skipped)


def short(card: ProfileCard, name: str) -> str:
    """The name of a configuration, without the subject where there is only one."""
    return name.split("/", 1)[1] if len(card.subjects) == 1 else name


def ratio_text(ratio: RatioCard | None) -> str:
    """A ratio with its interval: "1.95 (1.91 to 2.02)"."""
    return "" if ratio is None else str(Ratio(**ratio.model_dump()))


def caveat_lines(card: ProfileCard) -> Iterator[str]:
    """Failures and caveats: a line per failed configuration, one for the caveats of all rows, one per row with more."""
    for configuration in card.configurations:
        if configuration.failed:
            yield f"{short(card, configuration.name)}: {configuration.failed}"
    measured = [row for row in card.rows if not row.failed]
    every = [set(row.caveats) for row in measured]
    shared = sorted(set.intersection(*every)) if every else []
    if shared:
        yield f"all rows: {'; '.join(shared)}"
    for row in card.rows:
        where = f"{short(card, row.configuration)}, batch {row.batch}, {MODE_TITLES[row.mode]}"
        caveats = [caveat for caveat in row.caveats if caveat not in shared]
        if row.failed or caveats:
            yield f"{where}: {row.failed or '; '.join(caveats)}"


def best_lines(card: ProfileCard) -> Iterator[str]:
    """The fastest configuration at every batch size, compared with the runtimes' default settings."""
    for batch, choice in card.best.items():
        against = [
            f"{ratio_text(ratio)} times as fast as {short(card, name)}" for name, ratio in choice.against.items()
        ]
        yield "; ".join([f"batch {batch}: {short(card, choice.configuration)}, p50 {choice.p50_ms:.3g} ms", *against])


def _table(card: ProfileCard, rows: list[RowCard]) -> Iterator[str]:
    yield (
        "| configuration | p50 ms | p90 | p95 | p99 | mean | min | images/s | ratio | first ms | peak MiB | GPU MiB "
        "| J/image | accuracy % |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    for row in rows:
        name = markdown_text(short(card, row.configuration))
        if row.failed or row.p50_ms is None:
            yield f"| {name} | {markdown_text(str(row.failed))} |" + " |" * 12
            continue
        latencies = (row.p90_ms, row.p95_ms, row.p99_ms, row.mean_ms, row.min_ms)
        figures = " | ".join("" if value is None else f"{value:.3f}" for value in latencies)
        energy = "" if row.joules_per_image is None else f"{row.joules_per_image:.3g}"
        mark = CAVEAT_MARK if row.caveats else ""
        yield (
            f"| {name} | {row.p50_ms:.3f}{mark} | {figures} | {row.images_per_s or 0:.1f} "
            f"| {ratio_text(row.ratio)} | {row.first_ms or 0:.1f} | {_mib(row.peak_rss_bytes)} "
            f"| {_mib(row.device_bytes)} | {energy} | {_accuracy(card, row)} |"
        )


def _configurations(card: ProfileCard) -> Iterator[str]:
    yield "| configuration | facts | load s | file MB |"
    yield "| --- | --- | ---: | ---: |"
    for each in card.configurations:
        load = "" if each.load_s is None else f"{each.load_s:.2f}"
        size = "" if each.file_bytes is None else f"{each.file_bytes / 1e6:.2f}"
        name, facts = markdown_text(short(card, each.name)), markdown_text(each.failed or facts_text(each))
        yield f"| {name} | {facts} | {load} | {size} |"


def facts_text(configuration: ConfigurationCard) -> str:
    """The runtime's facts in one line."""
    return ", ".join(f"{key} {value}" for key, value in configuration.facts.items() if value not in (None, ""))


def _accuracy(card: ProfileCard, row: RowCard) -> str:
    configuration = card.configuration(row.configuration)
    found = card.subject(configuration.subject).accuracy.get(configuration.precision)
    return "" if found is None else f"{found.top1:.2f}"


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.0f}"
