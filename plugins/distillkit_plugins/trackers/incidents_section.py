"""Incidents in the report: unreadable images and skipped steps."""

from __future__ import annotations

from distillkit import Incidents

SHOWN = 10
"""Maximum number of skipped steps to list."""


def incidents_section(incidents: Incidents) -> list[str]:
    """Markdown paragraphs; at least one unless there are no incidents."""
    sections: list[str] = []
    counts = incidents.counts()
    if counts:
        kinds = sorted({kind for by_kind in counts.values() for kind in by_kind})
        rows = [f"| {' | '.join(['unreadable images', *counts])} |", f"| --- |{' ---: |' * len(counts)}"]
        rows += [
            f"| {kind} | {' | '.join(f'{by_kind.get(kind, 0):,}' for by_kind in counts.values())} |" for kind in kinds
        ]
        sections += [
            (
                f"{_counted(len(incidents.broken), 'image')} could not be read. Training used other images instead, "
                "evaluation left them out. `incidents.json` lists them all."
            ),
            "\n".join(rows),
        ]
    if incidents.skipped:
        listed = ", ".join(f"{step:,}" for step in incidents.skipped[:SHOWN])
        more = " and others" if len(incidents.skipped) > SHOWN else ""
        sections.append(
            f"{_counted(len(incidents.skipped), 'step')} did not update the weights because loss or gradient was not "
            f"finite: {listed}{more}."
        )
    return sections


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
