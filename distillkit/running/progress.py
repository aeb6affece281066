"""Progress of a run on the terminal: opening lines, a progress bar, lines for epochs and log intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from distillkit.contracts.run import Record, RunInfo
from distillkit.messages.progress import ProgressDisplay, in_columns, show_images_measured
from distillkit.messages.text import counted
from distillkit.recipe.schema import Recipe

MIN_S_BETWEEN_EPOCH_LINES = 1.0


class RunProgress:
    """Shows the progress of a run, as an observer of its life-cycle hooks; at most one epoch line per second.

    `run` names the run where the display shows several.
    It is a `distillkit.contracts.run.LiveObserver`, so that the display moves with time, not with `training.log_every`.
    """

    def __init__(self, display: ProgressDisplay, run: str = "") -> None:
        self._display = display
        self._bar, self._start = (f"{run} step", f"{run}: ") if run else ("step", "")
        self._latest: Record = {}
        self._epoch_line_s = -MIN_S_BETWEEN_EPOCH_LINES

    def announce(self, recipe: Recipe) -> None:
        """Write the first line, before weights or data are downloaded: the data, if it was not named, and why."""
        if recipe.about.data_reason:
            self._display.note(f"data {recipe.data.train or recipe.data.unlabeled}: {recipe.about.data_reason}")

    def distillkit_run_started(self, run: RunInfo) -> None:
        for line in _opening_lines(run):
            self._display.note(f"{self._start}{line}")
        self._display.restart()
        self._display.show(self._bar, run.start_step, run.steps)

    def distillkit_steps_logged(self, run: RunInfo, record: Record) -> None:
        self._show(run, record)
        if self._display.is_line_due or (_is_first(record) and not self._display.is_interactive):
            self._write_line(run, record)

    def progressed(self, run: RunInfo, record: Record) -> None:
        """Show the averages of the interval so far; right after a log interval there are none."""
        if "loss" not in record:
            return
        self._show(run, record)
        if self._display.is_line_due:
            self._write_line(run, record)

    def evaluating(self, split: str, images: int, total: int) -> None:
        """Show the images measured so far, in a bar of their own until all are done."""
        show_images_measured(self._display, split, images, total)

    def _show(self, run: RunInfo, record: Record) -> None:
        self._latest = record
        pace = " ".join(f"{part};" for part in self._pace(run, record, record))
        self._display.show(self._bar, int(record["step"]), run.steps, pace, below="; ".join(_losses(record)))

    def distillkit_epoch_ended(self, run: RunInfo, record: Record) -> None:
        now_s = self._display.elapsed_s
        if now_s - self._epoch_line_s >= MIN_S_BETWEEN_EPOCH_LINES or record["step"] >= run.steps:
            self._epoch_line_s = now_s
            self._write_line(run, record)

    def distillkit_noted(self, note: str) -> None:
        self._display.note(f"{self._start}note: {note}")

    def distillkit_run_ended(self) -> None:
        self._display.close()

    def distillkit_run_failed(self) -> None:
        self._display.close()

    def _write_line(self, run: RunInfo, record: Record) -> None:
        """Write a line: epoch and step, accuracy, the newest losses unless an earlier line has them, rate, time left.

        The loss of the first step is no figure of an epoch.
        """
        logged, self._latest = self._latest, {}
        if "loss" not in logged or _is_first(logged) is not _is_first(record):
            logged = {}
        parts = _accuracies(record) + (_losses(logged) if logged else []) + self._pace(run, record, logged)
        self._display.line(in_columns(f"{self._start}{_position(run, record)}:", parts or ["done"]))

    def _pace(self, run: RunInfo, record: Record, logged: Record) -> list[str]:
        """Throughput and time left, evaluations included."""
        if _is_first(record):  # warm-up makes the first step slow
            return []
        step = record["step"]
        left = [f"{self._display.time_left(step - run.start_step, run.steps - step)} left"] if step < run.steps else []
        return ([_rates(logged)] if logged else []) + left


def _licensed(teacher: Mapping[str, Any]) -> str:
    licence = teacher["licence"]
    return f"{teacher['name']} (weights {licence})" if licence else str(teacher["name"])


def _opening_lines(run: RunInfo) -> list[str]:
    plan: Mapping[str, Any] = run.plan
    data, student = plan["data"], plan["student"]
    used = {loss["teacher"] for loss in plan["losses"]}
    teachers = ", ".join(_licensed(teacher) for teacher in plan["teachers"] if teacher["recipe_name"] in used)
    start = f", from {student['starts_from']}" if student["starts_from"] else ""
    resumed = f", from step {run.start_step:,}" if run.start_step else ""
    steps = f"{counted(run.steps, 'step')} of {counted(plan['samples_per_step'], 'image')}{resumed}"
    return [
        f"student {student['name']} ({student['parameters']:,} parameters){start}; loss {plan['loss']}"
        + (f"; teacher {teachers}" if teachers else ""),
        f"{counted(data['images'], 'image')} of {data['train']}, {data['labelled']:,} labelled",
        f"{steps}; run directory {run.directory}",
        *(f"note: {note}" for note in plan["notes"]),
    ]


def _accuracies(record: Record) -> list[str]:
    """Validation accuracy of the student and of its EMA, where evaluated; the report has the single heads."""
    figures = {"validation": "validation/top1", "EMA": "validation/ema/top1"}
    return [f"{name} {record[key]:.2f} %" for name, key in figures.items() if key in record]


def _is_first(record: Record) -> bool:
    return record["step"] == 1


def _position(run: RunInfo, record: Record) -> str:
    epochs = -(-run.steps // run.steps_per_epoch)  # rounded up
    return f"epoch {round(record['epoch'], 2):g}/{epochs}, step {record['step']:,.0f}/{run.steps:,}"


def _losses(record: Record) -> list[str]:
    """The loss, with its terms if there are several, and the learning rate; gradient shares; skipped steps."""
    terms = [f"{_term(key)} {value:.4f}" for key, value in record.items() if key.startswith("loss/")]
    parts = f" ({', '.join(terms)})" if len(terms) > 1 else ""
    details = [_gradient_shares(record), _skipped(record)]
    return [f"loss {record['loss']:.4f}{parts}, lr {record['lr']:.2e}", *(detail for detail in details if detail)]


def _skipped(record: Record) -> str:
    """The number of skipped steps in the interval."""
    skipped = int(record.get("skipped_steps", 0))
    return f"{counted(skipped, 'step')} skipped" if skipped else ""


def _gradient_shares(record: Record) -> str:
    """The share of each loss term in the sum of the gradient norms on the student; nothing for a single term."""
    prefix = "grad_norm/"
    norms = {_term(key): value for key, value in record.items() if key.startswith(prefix)}
    total = sum(norms.values())
    if len(norms) < 2 or not 0 < total < math.inf:
        return ""
    return f"gradient {', '.join(f'{name} {_percent(value / total)}' for name, value in norms.items())}"


def _percent(share: float) -> str:
    """A share with two significant digits, since small ones matter most: 62 %, 3.8 %, 0.0021 %."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 9.95 or not percent else f"{percent:.2g} %"


def _term(key: str) -> str:
    """The short name of a term: "loss/hard/hard" is "hard", "loss/crd/pairs" is "crd/pairs"."""
    return "/".join(dict.fromkeys(key.split("/")[1:]))


def _rates(record: Record) -> str:
    return f"{record['images_per_s']:,.0f} images/s, data wait {record['data_wait']:.0%}"
