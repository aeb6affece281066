"""What a comparison reads of a finished run: recipe, figures, cost and curves. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from distillkit.comparison.differing_keys import LISTS, flat_recipe
from distillkit.comparison.evaluations import StoredEvaluation, read_evaluations
from distillkit.comparison.exports import Export, read_exports
from distillkit.errors import DistillkitError, RunDirectoryError
from distillkit.messages.text import command, one_line, shortened
from distillkit.running.directory import RunDirectory
from distillkit.running.metrics import failure, read_metrics
from distillkit.storage.untrusted import read_json

Points: TypeAlias = tuple[tuple[float, float], ...]
Stored = TypeVar("Stored", bound=BaseModel)

LOSS_NAMES = frozenset({"loss", "name", "teacher"})
"""Keys of a loss in a recipe that say what it is."""
CURVES = ("validation/top1", "validation/loss", "loss")
"""Metrics that are drawn over the optimiser steps."""


class PlannedData(BaseModel):
    """The part of `data` in plan.json that a comparison reads. Plans of earlier versions have no `fingerprints`."""

    train: str
    images: int
    fingerprint: str
    fingerprints: dict[str, str] = {}


class PlannedStudent(BaseModel):
    """The part of `student` in plan.json that a comparison reads."""

    name: str
    parameters: int


class PlannedLoss(BaseModel):
    """The part of a loss in plan.json that a comparison reads."""

    name: str
    weight: float
    options: dict[str, Any] = {}


class PlannedCost(BaseModel):
    """The part of `cost` in plan.json that a comparison reads."""

    student_gflop_per_image: float
    teacher_gflop_per_image: float
    run_pflop: float


class PlannedRun(BaseModel):
    """The part of plan.json that a comparison reads."""

    data: PlannedData
    class_names: list[str] | None
    student: PlannedStudent
    losses: list[PlannedLoss]
    samples_per_step: int
    cost: PlannedCost


class FinishedResult(BaseModel):
    """The part of result.json that a comparison reads. Runs of earlier versions have no `duration_s`."""

    steps: int
    figures: dict[str, float]
    duration_s: float | None = None
    runs_in_pass: int = 1


@dataclass(frozen=True)
class RunFacts:
    """A finished run. `name` is its path as given; `settings` are its recipe by dotted key, seeds included.

    `images_per_s` is the median over the log intervals. `curves` are (step, value) of the metrics in CURVES. `stated`
    are the keys of `settings` for options of losses that the recipe sets, and not the defaults of the loss.
    """

    path: Path
    settings: Mapping[str, Any]
    plan: PlannedRun
    result: FinishedResult
    device: str | None
    images_per_s: float | None
    curves: Mapping[str, Points] = field(default_factory=dict)
    evaluations: tuple[StoredEvaluation, ...] = ()
    exports: tuple[Export, ...] = ()
    notes: tuple[str, ...] = ()
    stated: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def seed(self) -> tuple[int, int]:
        """The seeds of the run, and of its data."""
        return self.settings["seed"], self.settings["data.seed"]

    @property
    def images(self) -> int:
        """Number of training images that were shown, each as often as it was shown."""
        return self.result.steps * self.plan.samples_per_step

    @cached_property
    def figures(self) -> dict[str, float]:
        """The figures of the end of the run, then those of `distillkit evaluate`; finite ones only."""
        values = dict(self.result.figures)
        for evaluation in self.evaluations:
            values |= {f"{evaluation.name}/{figure}": value for figure, value in evaluation.figures.items()}
        return {name: value for name, value in values.items() if math.isfinite(value)}


def read_run(path: Path) -> RunFacts:
    """Read a finished run.

    Raises: RunDirectoryError with the end of a sentence about the run: not finished, failed, or a file is damaged.
    """
    directory = RunDirectory(path)
    try:
        recipe = directory.read_recipe()
    except DistillkitError as error:
        raise RunDirectoryError(one_line(error)) from None
    rows = read_metrics(path)
    if not directory.result.is_file():
        raise RunDirectoryError(_unfinished(path, rows))
    plan = _read(directory.plan, PlannedRun)
    result = _read(directory.result, FinishedResult)
    dumped = recipe.model_dump(mode="json")
    lists: dict[str, Sequence[Mapping[str, Any]]] = {
        "teachers": dumped["teachers"],
        "losses": [{"name": loss.name, "weight": loss.weight, **loss.options} for loss in plan.losses],
    }
    steps = [row for row in rows if row["kind"] == "steps"]
    exports, notes = read_exports(path)
    return RunFacts(
        path=path,
        settings=flat_recipe({name: value for name, value in dumped.items() if name not in LISTS}, lists),
        plan=plan,
        result=result,
        device=_device(directory.environment),
        images_per_s=median(rates) if (rates := [y for _, y in _points(steps, "images_per_s")]) else None,
        curves={name: points for name in CURVES if (points := _points(rows, name))},
        evaluations=read_evaluations(path),
        exports=exports,
        notes=notes,
        stated=_stated(dumped["losses"], plan.losses),
    )


def _stated(given: Sequence[Mapping[str, Any]], losses: Sequence[PlannedLoss]) -> frozenset[str]:
    """The keys, as in `settings`, of the options that the losses of a recipe state; `losses` are those of its plan."""
    entries = [
        {key: value for key, value in entry.items() if value is not None and key not in LOSS_NAMES}
        | {"name": loss.name}
        for entry, loss in zip(given, losses, strict=False)
    ]
    return frozenset(key for key in flat_recipe({}, {"losses": entries}) if "." in key)


def _read(file: Path, kind: type[Stored]) -> Stored:
    """What `kind` describes of a JSON file. Raises: RunDirectoryError."""
    try:
        return kind.model_validate(read_json(file))
    except (OSError, ValidationError, ValueError):
        raise RunDirectoryError(f"{file.name} is missing or damaged; restore it or run the training again") from None


def _unfinished(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Why a run has no result, and how to continue it."""
    remedy = f"continue it with {command('distillkit', 'run', '--resume', path)}"
    error = failure(rows)
    if error is not None:
        return f"it failed: {shortened(error)}; {remedy}"
    steps = [step for row in rows if isinstance(step := row.get("step"), int | float)]
    return f"it is not finished, last logged step {max(steps, default=0):,.0f}; let it end, or {remedy}"


def _device(environment: Path) -> str | None:
    """The device that a run trained on; None if it is unknown."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return str(read_json(environment)["device"])
    return None


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> Points:
    return tuple(_numbers(rows, name))


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> Iterator[tuple[float, float]]:
    for row in rows:
        step, value = row.get("step"), row.get(name)
        if row["kind"] in {"steps", "epoch"} and isinstance(step, int | float) and isinstance(value, int | float):
            yield float(step), float(value)
