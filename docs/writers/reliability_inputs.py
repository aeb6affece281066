"""The sections of docs/reliability.md on data, places and permissions, from the results of tests/faults/inputs.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOUND = Path(__file__).parents[1] / "benchmarks" / "reliability-inputs.json"


def sections() -> str:
    """Each section: its heading, what it is about, and a table per group."""
    found = json.loads(FOUND.read_text(encoding="utf-8"))
    return "\n\n".join(part for section in found["sections"] for part in _section(section))


def _section(section: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {section['title']}"
    yield section["about"].strip()
    for group in section["groups"]:
        if group["title"]:
            yield f"### {group['title']}"
        rows = [f"| {row['input']} | {row['answer']} | {_shown_by(row)} |" for row in group["rows"]]
        yield "\n".join(["| input | what distillkit does | shown by |", "|---|---|---|", *rows])


def _shown_by(row: Mapping[str, Any]) -> str:
    """The files of a row's tests, and how many of them passed."""
    files = dict.fromkeys(test.partition("::")[0] for test in row["tests"])
    passed = row["passed"] if row["passed"] == row["ran"] else f"**{row['passed']} of {row['ran']}**"
    return f"{', '.join(f'`{file}`' for file in files)}: {passed} passed"
