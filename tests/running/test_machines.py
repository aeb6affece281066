"""Machines that do not share a disk: two processes, only one of which sees the run."""

import sys

from distillkit_cli.main import command_line
from tests import forked

PROGRAM = """
import os, sys
from distillkit_cli.main import command_line
rank = os.environ["RANK"]
given = ["run", "--auto-resume", "--out", sys.argv[1] + rank, *sys.argv[2:]]
sys.exit(command_line(given))
"""


def test_a_run_that_only_one_machine_sees_is_not_continued(tmp_path):
    arguments = ["--set", "training.steps=2", "--set", "data.workers=0", "--set", "training.device='cpu'"]
    arguments += ["--set", "student.width=24", "--set", "student.heads=2", "--set", "student.depth=1"]
    assert command_line(["--quiet", "run", "--out", str(tmp_path / "run0"), *arguments]) == 0
    (tmp_path / "run0" / "result.json").unlink()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = forked.run([*launcher, sys.executable, "-c", PROGRAM, tmp_path / "run", *arguments], timeout=120)
    sentence = (
        f"error: process 0 of 2 finds a run in {tmp_path / 'run0'}, process 1 does not; give --out on a "
        "disk that all machines share, and the same options on each"
    )
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [sentence]
