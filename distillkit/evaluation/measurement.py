"""What an evaluation found, and where a run keeps it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from distillkit.messages.text import one_line, shortened
from distillkit.plugin.error_attribution import kind_of, refuse

Row: TypeAlias = Mapping[str, float | str]

EVALUATIONS = "evaluations.jsonl"


@dataclass(frozen=True)
class Measurement:
    """What one protocol found.

    `title` says what was done, in a few words. `figures` are accuracies in percent by name, and `images`, how many
    were measured. `rows` are a table, each with the same keys; accuracies in it are called `top1` and `top5`.
    `settings` are the values that the protocol used, whether given or its own: plain data. `notes` are sentences.
    A number is a finite float or int of Python; whoever found none leaves the figure out.
    """

    title: str
    figures: Mapping[str, float]
    rows: tuple[Row, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationResult:
    """A measurement, of what, on what, and when (UTC)."""

    target: str
    protocol: str
    data: str
    split: str
    date: str
    distillkit: str
    measurement: Measurement

    @property
    def figures(self) -> Mapping[str, float]:
        """The figures of the measurement."""
        return self.measurement.figures

    def as_dict(self) -> dict[str, Any]:
        """Plain data, flat."""
        values = asdict(self)
        measured: dict[str, Any] = values.pop("measurement")
        return values | measured


def check_measurement(whose: object, found: Any) -> None:
    """Refuse what is no measurement, or holds what no line of `evaluations.jsonl` could.

    Raises: BrokenPluginError that names whose it is and the figure.
    """
    if not isinstance(found, Measurement):
        refuse(whose, "measure", kind_of(found), "a Measurement")
    if not isinstance(found.title, str):
        refuse(whose, "measure", f"a title as {kind_of(found.title)}", "text")
    if not isinstance(found.figures, Mapping):
        refuse(whose, "measure", f"figures as {kind_of(found.figures)}", "a mapping from names to numbers")
    _check_cells(whose, "figure", found.figures, words=False)
    _check_rows(whose, found.rows)
    notes: Any = found.notes
    if not isinstance(notes, tuple) or not all(isinstance(note, str) for note in notes):
        refuse(whose, "measure", f"the notes {shortened(repr(notes))}", "a tuple of sentences")
    try:
        json.dumps(found.settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        refuse(whose, "measure", f"settings that JSON does not hold ({one_line(error)})", "plain data")


def _check_rows(whose: object, rows: Any) -> None:
    if not isinstance(rows, tuple) or not all(
        isinstance(row, Mapping) and row.keys() == rows[0].keys() for row in rows
    ):
        refuse(whose, "measure", f"the rows {shortened(repr(rows))}", "a tuple of mappings with the same keys")
    for row in rows:
        _check_cells(whose, "cell", row, words=True)


def _check_cells(whose: object, what: str, cells: Mapping[str, object], *, words: bool) -> None:
    for name, value in cells.items():
        if not isinstance(name, str):
            refuse(whose, "measure", f"a {what} named by {kind_of(name)}", "text")
        if words and isinstance(value, str):
            continue
        if isinstance(value, bool) or not isinstance(value, float | int):
            refuse(whose, "measure", f"{what} '{name}' as {kind_of(value)}", "a number")
        if not math.isfinite(value):
            refuse(whose, "measure", f"{what} '{name}' as {value}", "a finite number")


def append(directory: Path, evaluation: EvaluationResult) -> None:
    """Add a line to the directory's `evaluations.jsonl`; what is there stays."""
    with (directory / EVALUATIONS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(evaluation.as_dict(), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
