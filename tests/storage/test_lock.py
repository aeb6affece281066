"""File lock: it excludes other processes, reports its holder, and is released when the holder ends."""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from distillkit.storage.lock import LockedError, acquire

HOLD = """
import os, sys, time
from pathlib import Path
from distillkit.storage.lock import acquire
with acquire(Path(sys.argv[1])):
    {inside}
    print("held", flush=True)
    input()
"""
LEAVE_A_CHILD = """
    running, started = os.pipe()
    if not os.fork():
        print(os.getpid(), flush=True)
        os.write(started, b"1")
        time.sleep(60)
    os.read(running, 1)
"""


@contextmanager
def holder(file, inside="pass"):
    """A process that holds the lock; `first_line` is its first line of output."""
    command = [sys.executable, "-c", HOLD.format(inside=inside), str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.first_line = process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "lock"


def refusal(file):
    with pytest.raises(LockedError) as caught, acquire(file):
        pass
    return caught.value


def test_a_held_lock_is_refused_with_the_process_id_of_its_holder(file):
    file.write_text(" 123456789")  # left behind by a killed process
    with holder(file) as other:
        assert str(refusal(file)) == f"locked by process {other.pid}"
        assert refusal(file).pid == str(other.pid)  # the first refusal changed nothing


def test_a_killed_process_releases_the_lock(file):
    with holder(file) as other:
        other.kill()
        other.wait()
        with acquire(file):
            assert file.read_text() == f" {os.getpid()}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_of_a_killed_process_does_not_hold_the_lock(file):
    with holder(file, LEAVE_A_CHILD) as other:
        child = int(other.first_line)
        other.kill()
        other.wait()
        try:
            with acquire(file):
                os.kill(child, 0)  # raises if the child has ended
        finally:
            os.kill(child, 9)


def test_a_released_lock_is_free_and_its_file_remains(file):
    with acquire(file):
        assert refusal(file).pid == str(os.getpid())  # the holder itself cannot acquire it twice
    with acquire(file):
        pass
    assert file.exists() == (sys.platform != "win32")


def test_an_error_inside_releases_the_lock(file):
    with pytest.raises(ValueError, match=r"^inside$"), acquire(file):
        raise ValueError("inside")
    with acquire(file):
        pass
