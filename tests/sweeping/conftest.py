"""Sweeps of tiny runs on digits, started as programs."""

import json
import os
import random
import signal
import time

import pytest

from tests import forked

TINY = (
    *("--set", "student.image_size=8"),
    *("--set", "student.patch=4"),
    *("--set", "student.width=16"),
    *("--set", "student.depth=1"),
    *("--set", "student.heads=2"),
    *("--set", "training.epochs=4"),
    *("--set", "data.workers=0"),
    *("--set", 'trackers=["metrics"]'),
    *("--device", "cpu"),
)


@pytest.fixture
def sweep(tmp_path):
    """Start `distillkit sweep` in a folder with these arguments; `.wait` gives its exit code."""

    def start(*arguments):
        environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
        return forked.start(["-m", "distillkit_cli", "sweep", *TINY, *arguments], cwd=tmp_path, env=environment)

    return start


@pytest.fixture
def kill(sweep):
    """Start `distillkit sweep` with these arguments and kill it within `seconds`, four times or until it ends."""

    def start_and_kill(*arguments, seconds):
        moments, killed = random.Random(18), 0
        while killed < 4:
            process = sweep(*arguments)
            time.sleep(moments.uniform(0.5, seconds))
            killed += process.poll() is None
            process.kill()
            code = process.wait()
            assert code in {0, -signal.SIGKILL}
            if code == 0:
                break

    return start_and_kill


@pytest.fixture
def finish(sweep):
    """Run `distillkit sweep --json` to its end; its result, exit code and notes."""

    def run(*arguments):
        process = sweep("--json", *arguments)
        out, err = process.communicate(timeout=900)
        return json.loads(out) if out else None, process.wait(), err

    return run
