"""What an evaluation found, and where a run keeps it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, float | str]

EVALUATIONS = "evaluations.jsonl"


@dataclass(frozen=True)
class Measurement:
    """What one protocol found.

    `title` says what was done, in a few words. `figures` are accuracies in percent by name, and `images`, how many
    were measured. `rows` are a table, each with the same keys; accuracies in it are called `top1` and `top5`.
    `settings` are the values that the protocol used, whether given or its own. `notes` are sentences.
    """

    title: str
    figures: Mapping[str, float]
    rows: tuple[Row, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """A measurement, of what, on what, and when (UTC)."""

    target: str
    protocol: str
    data: str
    split: str
    date: str
    distillkit: str
    measurement: Measurement

    def as_dict(self) -> dict[str, Any]:
        """Plain data, flat."""
        values = asdict(self)
        measured: dict[str, Any] = values.pop("measurement")
        return values | measured


def append(directory: Path, evaluation: Evaluation) -> None:
    """Add a line to the directory's `evaluations.jsonl`; what is there stays."""
    with (directory / EVALUATIONS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(evaluation.as_dict(), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
