"""Some of the other faults; all of them run with `python -m tests.faults.others`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.victim import environment

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_system_faults_end_a_run_with_one_sentence_and_an_intact_checkpoint(tmp_path):
    found = tmp_path / "others.json"
    only = ["full_disk", "lost_loader", "lost_directory"]
    command = [sys.executable, "-m", "tests.faults.others", "--out", str(found), "--only", *only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [record["held"] for record in json.loads(found.read_text())["records"]] == [True] * 3
