"""Results of `distillkit evaluate` that a run has stored in its evaluations.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from distillkit.running.directory import EVALUATIONS
from distillkit.storage.untrusted import parse_json, read_plain_text


class EvaluationLine(BaseModel):
    """The part of a line of evaluations.jsonl that a comparison reads."""

    protocol: str
    data: str
    split: str
    checkpoint: str | None = None
    figures: dict[str, float]
    rows: list[dict[str, float | str]] = []
    settings: dict[str, Any] = {}


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation: what was measured, its figures, and accuracy per class if it was asked for.

    `name` is the protocol, the data and the student, "knn on digits test", with the student unless it is the last one.
    """

    name: str
    split: str
    figures: Mapping[str, float]
    settings: str
    per_class: Mapping[str, float]


def read_evaluations(run: Path) -> tuple[StoredEvaluation, ...]:
    """The newest evaluation of each name, without lines that are damaged."""
    try:
        text = read_plain_text(run / EVALUATIONS)
    except (OSError, ValueError):
        return ()
    found: dict[str, StoredEvaluation] = {}
    for line in text.splitlines():
        with suppress(ValueError):
            evaluation = _stored(EvaluationLine.model_validate(parse_json(line)))
            found[evaluation.name] = evaluation
    return tuple(found.values())


def _stored(line: EvaluationLine) -> StoredEvaluation:
    student = "" if line.checkpoint in {None, "last"} else f", student {line.checkpoint}"
    rows = {str(row["class"]): float(row["top1"]) for row in line.rows if {"class", "images", "top1"} <= row.keys()}
    return StoredEvaluation(
        name=f"{line.protocol} on {line.data} {line.split}{student}",
        split=line.split,
        figures=line.figures,
        settings=json.dumps(line.settings, sort_keys=True),
        per_class=rows,
    )
