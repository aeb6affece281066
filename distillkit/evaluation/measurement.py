"""Results of evaluations, and the `evaluations.jsonl` of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from distillkit.messages.text import one_line, shortened
from distillkit.plugin.error_attribution import kind_of, refuse
from distillkit.running.directory import EVALUATIONS
from distillkit.storage.atomic import append_text

Row: TypeAlias = Mapping[str, float | str]


@dataclass(frozen=True)
class Measurement:
    """The measurement of one protocol.

    `title` says in a few words what was done. `figures` are accuracies in percent by name, and `images`, the number of
    images measured. `rows` are a table, each with the same keys; its accuracies are named `top1` and `top5`.
    `settings` are the values that the protocol used, given or default, as plain data. `notes` are sentences.
    A number is a finite Python float or int; a figure without a value is left out.
    """

    title: str
    figures: Mapping[str, float]
    rows: tuple[Row, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationResult:
    """A measurement with its target, protocol, data, split, preprocessing and date (UTC).

    `checkpoint` is the student of a run: last, best, ema, or the step of a checkpoint; None for other targets.
    `preprocessing` is plain data: the resizing, the crop, and what the crop is from.
    """

    target: str
    protocol: str
    data: str
    split: str
    date: str
    distillkit: str
    measurement: Measurement
    checkpoint: str | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def figures(self) -> Mapping[str, float]:
        """The figures of the measurement."""
        return self.measurement.figures

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the fields of the measurement on the top level."""
        values = asdict(self)
        measured: dict[str, Any] = values.pop("measurement")
        return values | measured


def check_measurement(evaluator: object, measurement: Any) -> None:
    """Refuse what is not a measurement, or cannot be a line of `evaluations.jsonl`.

    Raises: BrokenPluginError that names the evaluator and the figure.
    """
    if not isinstance(measurement, Measurement):
        refuse(evaluator, "measure", kind_of(measurement), "a Measurement")
    if not isinstance(measurement.title, str):
        refuse(evaluator, "measure", f"a title as {kind_of(measurement.title)}", "text")
    if not isinstance(measurement.figures, Mapping):
        refuse(evaluator, "measure", f"figures as {kind_of(measurement.figures)}", "a mapping from names to numbers")
    _check_values(evaluator, "figure", measurement.figures, allow_text=False)
    _check_rows(evaluator, measurement.rows)
    notes: Any = measurement.notes
    if not isinstance(notes, tuple) or not all(isinstance(note, str) for note in notes):
        refuse(evaluator, "measure", f"the notes {shortened(repr(notes))}", "a tuple of strings")
    try:
        json.dumps(measurement.settings, allow_nan=False)  # NaN and infinity are not JSON
    except (TypeError, ValueError) as error:
        refuse(evaluator, "measure", f"settings that cannot be written as JSON ({one_line(error)})", "plain data")


def _check_rows(evaluator: object, rows: Any) -> None:
    if not isinstance(rows, tuple) or not all(
        isinstance(row, Mapping) and row.keys() == rows[0].keys() for row in rows
    ):
        refuse(evaluator, "measure", f"the rows {shortened(repr(rows))}", "a tuple of mappings with the same keys")
    for row in rows:
        _check_values(evaluator, "cell", row, allow_text=True)


def _check_values(evaluator: object, kind: str, values: Mapping[str, object], *, allow_text: bool) -> None:
    for name, value in values.items():
        if not isinstance(name, str):
            refuse(evaluator, "measure", f"a {kind} named by {kind_of(name)}", "text")
        if allow_text and isinstance(value, str):
            continue
        # bool is an int, and NumPy and torch scalars are not JSON.
        if isinstance(value, bool) or not isinstance(value, float | int):
            refuse(evaluator, "measure", f"{kind} '{name}' as {kind_of(value)}", "a number")
        if not math.isfinite(value):
            refuse(evaluator, "measure", f"{kind} '{name}' as {value}", "a finite number")


def append(directory: Path, evaluation: EvaluationResult) -> None:
    """Append a line to `evaluations.jsonl` in the directory."""
    append_text(directory / EVALUATIONS, json.dumps(evaluation.as_dict(), ensure_ascii=False) + "\n", durable=True)
