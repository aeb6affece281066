"""A short run of the kill harness; the full one is `python -m tests.faults.kills --runs 50`."""

import json
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_bit_equal_to_an_undisturbed_run(tmp_path):
    found = tmp_path / "kills.json"
    command = ["-m", "tests.faults.kills", "--short", "--runs", "2", "--seed", "2", "--out", str(found)]
    done = forked.run(command, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(found.read_text())
    assert (results["runs"], results["equal"], results["unreadable"]) == (2, 2, 0)
    assert results["kills"] > 2
