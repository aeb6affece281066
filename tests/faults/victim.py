"""The run under test: a small distillation on digits with everything random or stateful on at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

START_LIMIT_S = 600.0
"""Time limit of one start of the run; a longer one hangs. The machine may be busy with other work."""

TEACHER = {
    "student.model": '"vit-ti"',
    "student.image_size": 8,
    "student.patch": 4,
    "student.width": 24,
    "student.depth": 2,
    "student.heads": 2,
    "data.workers": 0,
    "training.steps": 4,
    "training.device": '"cpu"',
    "trackers": "[]",
}
EVERYTHING = {
    "data.labels": 600,
    "data.workers": 0,
    "augment.crop": '"padded"',
    "augment.padding": 1,
    "augment.flip": 0.5,
    "augment.erasing": 0.5,
    "augment.repeats": 3,
    "mixing.mixup": 0.8,
    "mixing.cutmix": 1.0,
    "labels.weight": 0.5,
    "labels.smoothing": 0.1,
    "student.image_size": 8,
    "student.patch": 4,
    "student.width": 16,
    "student.depth": 2,
    "student.heads": 2,
    "student.drop_path": 0.3,
    "optimizer.lr": 0.004,
    "schedule.warmup_epochs": 0.5,
    "training.steps": 48,
    "training.batch_size": 96,
    "training.micro_batch_size": 32,
    "training.ema": 0.9,
    "training.clip": 1.0,
    "training.log_every": 4,
    "training.checkpoint_every": 3,
    "training.device": '"cpu"',
}
"""Mixup, cutmix, erasing, repeated augmentation, stochastic depth, accumulation, clipping, EMA, and two losses, one of
which trains a projector. Log intervals, checkpoints and epochs (of 10 steps) end at different steps."""


LOSSES = ("hard", "attndistill")
PREPARED = ("features:normalise=phi-s,statistics_images=100", "anchors:anchors=50", "similarity:resample=teacher")
"""Losses on features, two of which are prepared before the first step: PHI-S statistics and anchors."""


def settings(*tables: Mapping[str, Any]) -> list[str]:
    """`--set key=value` for every key; later tables win."""
    merged = {key: value for table in tables for key, value in table.items()}
    return [part for key, value in merged.items() for part in ("--set", f"{key}={value}")]


def arguments(teacher: Path, out: Path, losses: Sequence[str] = LOSSES, **changes: Any) -> list[str]:
    """The command line of the run, the same for its start and for every resume."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    given = ["run", "--auto-resume", "--out", str(out), "--teacher", f"run:{teacher}"]
    of_losses = [part for loss in losses for part in ("--loss", loss)]
    return [*given, *of_losses, *settings(EVERYTHING, changed)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def fresh(given: list[str], log: Path, *, launcher: tuple[str, ...] = ("-m", "distillkit_cli")) -> Victim:
    """Start a new interpreter in a new session."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, *launcher, *given],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
    return Victim(process.pid, log)


def forked(given: list[str], log: Path, prepare: Callable[[], None] = lambda: None) -> Victim:
    """Start the run in a fork of this process, which has imported the modules of a run and computed nothing yet.

    This saves the seconds of the imports. `prepare` runs first in the fork.
    """
    pid = os.fork()
    if pid:
        return Victim(pid, log)
    code = 70
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.environ["OMP_NUM_THREADS"] = "1"
        sys.argv = ["distillkit", *given]
        prepare()
        from distillkit_cli.main import command_line

        code = command_line(given)
    except BaseException:  # noqa: BLE001 - this process must end here, whatever happens
        traceback.print_exc()
    with suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def warm() -> None:
    """Import the modules of a run, for `forked`."""
    for name in (
        "matplotlib.backends.backend_agg",
        "sklearn.datasets",
        "distillkit.running.start",
        "distillkit_plugins.losses.anchors",
        "distillkit_plugins.losses.attndistill",
        "distillkit_plugins.losses.features",
        "distillkit_plugins.losses.similarity",
        "distillkit_plugins.students.deit",
        "distillkit_plugins.teachers.saved_run",
        "distillkit_plugins.trackers.report",
    ):
        import_module(name)


@dataclass
class Victim:
    """A process of the run under test, started here."""

    pid: int
    log: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, minus the signal number if a signal killed it, or None while it runs."""
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")
