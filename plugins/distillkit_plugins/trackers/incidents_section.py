"""Incidents in the report: unreadable images and skipped steps."""

from __future__ import annotations

from collections.abc import Iterator

from distillkit import Incidents
from distillkit.pages import Code, PageBlock, PageTable, Paragraph, TableRow

SHOWN = 10
"""Maximum number of skipped steps to list."""


def incidents_section(incidents: Incidents) -> Iterator[PageBlock]:
    """A table of unreadable images and sentences; nothing if there are no incidents."""
    counts = incidents.counts()
    if counts:
        kinds = sorted({kind for by_kind in counts.values() for kind in by_kind})
        rows = (TableRow((kind, *(f"{by_kind.get(kind, 0):,}" for by_kind in counts.values()))) for kind in kinds)
        sentence = (
            f"{_counted(len(incidents.broken), 'image')} could not be read. Training used other images instead, "
            "evaluation left them out. "
        )
        yield Paragraph((sentence, Code("incidents.json"), " lists them all."))
        yield PageTable("", ("unreadable images", *counts), tuple(rows), label="Unreadable images")
    for split, names in incidents.lost_classes.items():
        yield Paragraph(f"No {split} image of these classes could be read: {', '.join(names)}.")
    if incidents.skipped:
        listed = ", ".join(f"{step:,}" for step in incidents.skipped[:SHOWN])
        more = " and others" if len(incidents.skipped) > SHOWN else ""
        yield Paragraph(
            f"{_counted(len(incidents.skipped), 'step')} did not update the weights because loss or gradient was not "
            f"finite: {listed}{more}."
        )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
