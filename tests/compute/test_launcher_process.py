"""A process ends with the one that started it, also if that one is killed."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from distillkit.compute.launcher_process import LAUNCHER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent ended")
CHILD = """
import os, time
from distillkit.compute.launcher_process import end_with_launcher
end_with_launcher()
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = f"""
import os, subprocess, sys, time
from distillkit.compute.launcher_process import LAUNCHER
subprocess.Popen([sys.executable, "-c", {CHILD!r}], env=os.environ | {{LAUNCHER: str(os.getpid())}})
time.sleep(60)
"""


def test_a_child_ends_with_a_parent_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
        parent.wait()
        end = time.monotonic() + 20
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_child_ends_at_once_if_its_parent_has_ended_before():
    environment = os.environ | {LAUNCHER: "1000000000"}  # no process has this id
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (-15, b"")


def test_a_process_without_a_launcher_stays():
    environment = {key: value for key, value in os.environ.items() if key != LAUNCHER}
    code = CHILD.replace("time.sleep(60)", "")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, timeout=30)
    assert done.returncode == 0
