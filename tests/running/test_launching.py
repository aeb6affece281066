"""`run --nproc`: rendezvous address, and the processes after a signal to their launcher or its death."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from distillkit.running.checkpoint import newest_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems hide the environment of a process")

LONG = ["data.workers=0", "training.steps=4000", "training.checkpoint_every=50", "student.width=24", "student.heads=2"]
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The launcher of two processes that train in tmp_path/run; both have taken a step."""
    given = [part for setting in LONG for part in ("--set", setting)]
    process = subprocess.Popen(
        [sys.executable, "-m", "distillkit_cli", "run", "--out", str(tmp_path / "run"), "--nproc", "2", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    while not (tmp_path / "run" / "metrics.jsonl").is_file() or not (tmp_path / "run" / "metrics.jsonl").stat().st_size:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    yield process
    for pid in workers(tmp_path / "run"):  # left over only if a test failed
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()


def workers(out: Path) -> list[int]:
    """The processes that train in a directory."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "environ"])
        if str(out) in (process.info["cmdline"] or ()) and "LOCAL_RANK" in (process.info["environ"] or ())
    ]


def listening(pids: list[int]) -> set[str]:
    """The addresses on which processes listen."""
    connections = [each for pid in pids for each in psutil.Process(pid).net_connections("tcp")]
    return {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}


def test_the_processes_listen_on_loopback_only_and_end_with_their_launcher(
    launcher: subprocess.Popen[str], tmp_path: Path
) -> None:
    pids = workers(tmp_path / "run")
    assert len(pids) == 2
    addresses = listening([launcher.pid, *pids])
    assert addresses
    assert addresses <= LOOPBACK
    launcher.kill()
    output, _ = launcher.communicate()
    assert "stopped by SIGTERM after step " in output
    assert workers(tmp_path / "run") == []
    assert newest_checkpoint(tmp_path / "run" / "checkpoints")[0] is not None


def test_a_signal_to_the_launcher_reaches_the_processes(launcher: subprocess.Popen[str], tmp_path: Path) -> None:
    launcher.send_signal(signal.SIGUSR1)
    output, _ = launcher.communicate()
    assert launcher.returncode == 128 + signal.SIGUSR1
    last = output.splitlines()[-1]
    assert re.fullmatch(
        r"stopped by SIGUSR1 after step \d+ of 4000; a checkpoint is saved; "
        rf"to continue: distillkit run --resume {tmp_path / 'run'} --nproc 2",
        last,
    )
    assert workers(tmp_path / "run") == []
