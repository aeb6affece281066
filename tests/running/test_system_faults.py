"""System faults are reported in one sentence, whichever code raised them."""

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
    "a data loader worker was killed, probably out of memory; no checkpoint is saved yet; free memory and continue "
    "with --resume runs/a, or use fewer workers: --resume runs/a --set data.workers=N"
)


def because(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (KILLED, LOADER),
        (EXITED, LOADER),
        (FULL, "no disk space left for runs/a/best/student.json; free some space, then continue with --resume runs/a"),
        (
            because(BrokenPluginError("plugin 'x' failed"), MISSING),
            (
                "cannot write to the run directory any more: runs/a/metrics.jsonl (No such file or directory); "
                "restore it, then continue with --resume runs/a"
            ),
        ),
    ],
)
def test_a_system_fault_is_one_sentence(error, sentence):
    assert str(system_fault(error, RUN)) == sentence


def test_a_killed_worker_after_a_checkpoint(tmp_path):
    (tmp_path / "checkpoints" / "step-00000002").mkdir(parents=True)
    sentence = LOADER.replace("no checkpoint is saved yet", "the last checkpoint is intact").replace(
        str(RUN), str(tmp_path)
    )
    assert str(system_fault(KILLED, tmp_path)) == sentence


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        TrainingError("no disk space for the checkpoint"),
        because(DataError("'a.png' is not an image"), FileNotFoundError(errno.ENOENT, "No such file", "data/a.png")),
    ],
)
def test_other_errors_are_not_system_faults(error):
    assert system_fault(error, RUN) is None
