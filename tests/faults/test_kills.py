"""Short runs of the kill harnesses; the full ones are `python -m tests.faults.kills` and `tests.faults.bank_kills`."""

import json
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "harness",
    [("kills", "--short"), ("bank_kills",), ("kills", "--short", "--bank", "--prepared")],
    ids=["without a bank", "with a bank", "filling a bank, with statistics and anchors"],
)
def test_runs_killed_at_random_moments_end_bit_equal_to_an_undisturbed_run(tmp_path, harness):
    found = tmp_path / "kills.json"
    command = ["-m", f"tests.faults.{harness[0]}", *harness[1:], "--runs", "2", "--seed", "2", "--out", str(found)]
    done = forked.run(command, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(found.read_text())
    assert (results["runs"], results["equal"], results["unreadable"]) == (2, 2, 0)
    assert results["kills"] > 2
