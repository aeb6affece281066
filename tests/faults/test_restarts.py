"""torchrun restarts all processes after one was killed, and they connect again."""

import pytest

from tests import forked
from tests.faults.worker_kills import TORCHRUN

PROGRAM = """
import os, signal
from distillkit.compute.distributed import process_group
with process_group("cpu") as processes:
    if processes.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    gathered = processes.gather(f"{processes.rank} of attempt " + os.environ["TORCHELASTIC_RESTART_COUNT"])
    if processes.is_first:
        print(gathered)
"""


@pytest.mark.slow
def test_restarted_processes_do_not_wait_for_killed_ones(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = forked.run([*TORCHRUN, program], timeout=240)
    assert done.stdout == "['0 of attempt 1', '1 of attempt 1']\n", done.stderr
