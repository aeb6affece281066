"""What the report says of images that could not be read, and of steps that were skipped."""

from __future__ import annotations

from distillkit import Incidents

SHOWN = 10
"""How many steps are listed."""


def incidents_section(incidents: Incidents) -> list[str]:
    """The paragraphs, of which there is one at least."""
    sections: list[str] = []
    counts = incidents.counts()
    if counts:
        kinds = sorted({kind for of_split in counts.values() for kind in of_split})
        rows = [f"| {' | '.join(['cannot be read', *counts])} |", f"| --- |{' ---: |' * len(counts)}"]
        rows += [f"| {kind} | {' | '.join(f'{found.get(kind, 0):,}' for found in counts.values())} |" for kind in kinds]
        sections += [
            (
                f"{_counted(len(incidents.broken), 'image')} could not be read: in training others took their place, "
                "in evaluation they were left out. `incidents.json` names them all."
            ),
            "\n".join(rows),
        ]
    if incidents.skipped:
        listed = ", ".join(f"{step:,}" for step in incidents.skipped[:SHOWN])
        more = " and others" if len(incidents.skipped) > SHOWN else ""
        sections.append(
            f"{_counted(len(incidents.skipped), 'step')} moved no weight, since loss or gradient was not finite: "
            f"{listed}{more}."
        )
    return sections


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
