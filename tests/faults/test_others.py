"""Some of the other faults; all of them run with `python -m tests.faults.others`."""

import json
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_system_faults_end_a_run_with_one_sentence_and_an_intact_checkpoint(tmp_path):
    found = tmp_path / "others.json"
    only = ["full_disk", "lost_loader", "lost_directory"]
    command = ["-m", "tests.faults.others", "--out", str(found), "--only", *only]
    done = forked.run(command, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [record["held"] for record in json.loads(found.read_text())["records"]] == [True] * 3
