"""Errors that the system causes are reported in a sentence, whichever code raised them."""

import errno
from pathlib import Path

import pytest

from distillkit.errors import BrokenPluginError, DataError, TrainingError
from distillkit.running.system_faults import system_fault

RUN = Path("runs/a")
MISSING = FileNotFoundError(errno.ENOENT, "No such file or directory", "runs/a/metrics.jsonl")
FULL = OSError(errno.ENOSPC, "No space left on device", "runs/a/best/student.json")
KILLED = RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. ")
EXITED = RuntimeError("DataLoader worker (pid(s) 4711, 4712) exited unexpectedly")
LOADER = (
    "a loader process was killed, as when memory runs out; the last checkpoint is as it was; lower data.workers or "
    "free memory, then continue with --resume runs/a"
)


def because(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (KILLED, LOADER),
        (EXITED, LOADER),
        (FULL, "no room left for runs/a/best/student.json; make room, then continue with --resume runs/a"),
        (
            because(BrokenPluginError("plugin 'x' failed"), MISSING),
            (
                "the run directory cannot be written any more: runs/a/metrics.jsonl (No such file or directory); "
                "restore it, then continue with --resume runs/a"
            ),
        ),
    ],
)
def test_it_is_said_in_a_sentence(error, sentence):
    assert str(system_fault(error, RUN)) == sentence


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        TrainingError("no room for the checkpoint"),
        because(DataError("'a.png' is no image"), FileNotFoundError(errno.ENOENT, "No such file", "data/a.png")),
    ],
)
def test_other_errors_are_what_they_are(error):
    assert system_fault(error, RUN) is None
