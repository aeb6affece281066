"""What a run shows while it goes on: a bar where somebody watches, plain lines where nobody does.

Both follow the run through its life-cycle hooks, like any tracker.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from distillkit.contracts.run import RunInfo
from distillkit.messages.text import counted
from distillkit_cli.terminal import Terminal

Record = Mapping[str, float]
Clock = Callable[[], float]

LINE_EVERY_S = 10.0
EPOCHS_APART_S = 1.0


def progress_on(terminal: Terminal, clock: Clock = time.monotonic) -> LineProgress:
    """The display that fits the terminal."""
    return BarProgress(terminal, clock) if terminal.is_interactive else LineProgress(terminal, clock)


class LineProgress:
    """One line for the first step and one per epoch, but of very short epochs one in a second.

    Between epochs there is at most one in ten seconds.
    """

    def __init__(self, terminal: Terminal, clock: Clock) -> None:
        self._terminal = terminal
        self._clock = clock
        self._latest: Record = {}
        self._epoch_said = -EPOCHS_APART_S

    def distillkit_run_started(self, run: RunInfo) -> None:
        """Say what is about to be done."""
        for line in _opening(run):
            self._terminal.note(line)
        self._started = self._spoken = self._clock()

    def distillkit_steps_logged(self, run: RunInfo, record: Record) -> None:
        """Keep the figures, and say them if they are the first or nothing was said for a while."""
        self._latest = record
        if _is_first(record) or self._clock() - self._spoken >= LINE_EVERY_S:
            self._say(run, record)

    def distillkit_epoch_ended(self, run: RunInfo, record: Record) -> None:
        """Say how the epoch went."""
        if self._clock() - self._epoch_said < EPOCHS_APART_S and record["step"] < run.steps:
            return
        self._epoch_said = self._clock()
        self._say(run, record)

    def distillkit_noted(self, note: str) -> None:
        """Say it at once; it stays above a bar."""
        self._terminal.note(f"note: {note}")

    def distillkit_run_ended(self) -> None:
        """Nothing is left to show."""
        self.close()

    def distillkit_run_failed(self) -> None:
        """Leave the terminal as it was found."""
        self.close()

    def close(self) -> None:
        """Take away what is not a plain line."""

    def _say(self, run: RunInfo, record: Record) -> None:
        """One line: where the run is, how good the student is, and what was logged and not said yet."""
        logged, self._latest = self._latest, {}
        parts = _answers(record) + ([_losses(logged)] if logged else []) + self._pace(run, record, logged)
        self._terminal.note(f"{_place(run, record)}: {'; '.join(parts) or 'done'}")
        self._spoken = self._clock()

    def _pace(self, run: RunInfo, record: Record, logged: Record) -> list[str]:
        """Images per second and the time left; neither after the first step, which warms up."""
        if _is_first(record):
            return []
        left = [f"{self._left(run, record['step'])} left"] if record["step"] < run.steps else []
        return ([_rates(logged)] if logged else []) + left

    def _left(self, run: RunInfo, step: float) -> timedelta:
        """Time to the last step, at the pace since the start of this process, evaluations included."""
        done = max(step - run.start_step, 1.0)
        seconds = (self._clock() - self._started) / done * (run.steps - step)
        return timedelta(seconds=round(seconds))


class BarProgress(LineProgress):
    """A bar that moves with every log interval, the losses below it, and a line that stays for every epoch."""

    def distillkit_run_started(self, run: RunInfo) -> None:
        """Begin the bar."""
        super().distillkit_run_started(run)
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._terminal.notes,
            expand=True,
        )
        self._task = self._bar.add_task("", total=run.steps, completed=run.start_step)
        self._live = Live(self._bar, console=self._terminal.notes, transient=True, refresh_per_second=4)
        self._live.start()

    def distillkit_steps_logged(self, run: RunInfo, record: Record) -> None:
        """Move the bar."""
        self._latest = record
        pace = "".join(f"{part}; " for part in self._pace(run, record, record)).rstrip()
        self._bar.update(self._task, completed=int(record["step"]), description=pace)
        self._live.update(Group(self._bar, Text(_losses(record), style="dim")))

    def close(self) -> None:
        """Take the bar away; it may not have begun."""
        live: Live | None = getattr(self, "_live", None)
        if live is not None:
            live.stop()


def _licensed(teacher: Mapping[str, Any]) -> str:
    licence = teacher["licence"]
    return f"{teacher['name']} (weights {licence})" if licence else str(teacher["name"])


def _opening(run: RunInfo) -> list[str]:
    plan: Mapping[str, Any] = run.plan
    data, student = plan["data"], plan["student"]
    heard = {loss["teacher"] for loss in plan["losses"]}
    teachers = ", ".join(_licensed(teacher) for teacher in plan["teachers"] if teacher["recipe_name"] in heard)
    start = f", from {student['starts_from']}," if student["starts_from"] else ""
    begun = f"from step {run.start_step:,} " if run.start_step else ""
    return [
        f"{student['name']} ({student['parameters']:,} parameters){start} learns {plan['loss']}"
        + (f" from {teachers}" if teachers else ""),
        f"{counted(data['images'], 'image')} of {data['train']}, {data['labelled']:,} labelled",
        f"{begun}to step {run.steps:,}, {counted(plan['samples_per_step'], 'image')} each, in {run.directory}",
        *(f"note: {note}" for note in plan["notes"]),
    ]


def _answers(record: Record) -> list[str]:
    """The accuracy of the student's answer, where it was evaluated; the heads are for the report."""
    figures = {"validation": "validation/top1", "moving average": "validation/ema/top1"}
    return [f"{word} {record[key]:.2f} %" for word, key in figures.items() if key in record]


def _is_first(record: Record) -> bool:
    return record["step"] == 1


def _place(run: RunInfo, record: Record) -> str:
    epochs = -(-run.steps // run.steps_per_epoch)
    return f"epoch {record['epoch']:.4g}/{epochs}, step {record['step']:,.0f}/{run.steps:,}"


def _losses(record: Record) -> str:
    terms = [f"{_term(key)} {value:.4f}" for key, value in record.items() if key.startswith("loss/")]
    parts = f" ({', '.join(terms)})" if len(terms) > 1 else ""
    return f"loss {record['loss']:.4f}{parts}, lr {record['lr']:.2e}{_balance(record)}{_skips(record)}"


def _skips(record: Record) -> str:
    """How many steps of the interval moved nothing."""
    skipped = int(record.get("skipped_steps", 0))
    return f"; {counted(skipped, 'step')} skipped" if skipped else ""


def _balance(record: Record) -> str:
    """How much each of several terms pulls at the student: its share of the sum of their gradient norms."""
    prefix = "grad_norm/"
    norms = {_term(key): value for key, value in record.items() if key.startswith(prefix)}
    total = sum(norms.values())
    if len(norms) < 2 or not 0 < total < math.inf:
        return ""
    return f"; gradient {', '.join(f'{name} {_percent(value / total)}' for name, value in norms.items())}"


def _percent(share: float) -> str:
    """Two digits, as a small share is what one looks for: 62 %, 3.8 %, 0.0021 %."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 9.95 or not percent else f"{percent:.2g} %"


def _term(key: str) -> str:
    """A term without its prefix, and without the name of its loss where it has the same: "loss/hard/hard" is "hard"."""
    return "/".join(dict.fromkeys(key.split("/")[1:]))


def _rates(record: Record) -> str:
    return f"{record['images_per_s']:,.0f} images/s, data wait {record['data_wait']:.0%}"
