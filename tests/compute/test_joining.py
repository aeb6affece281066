"""Processes find each other in torchrun's store, whatever those that were killed have left there."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from torch.distributed import DistStoreError, PrefixStore, TCPStore

from distillkit.compute.distributed import _met

PROGRAM = """
import sys
from distillkit.compute.distributed import joined
for number in range(3):
    with joined("cpu") as processes:
        assert processes.gather(str(processes.rank + number)) == [str(number), str(1 + number), str(2 + number)]
        with joined("cpu") as inner:
            assert inner.is_alone
print("joined", flush=True)
"""


def meet(store, world, seconds=20):
    """What each of so many processes gets, played by threads with connections of their own."""

    def of(rank):
        own = TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False)
        return _met(own, rank, world, timedelta(seconds=seconds))

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(of, range(world)))


@pytest.mark.parametrize("world", [2, 3])
def test_all_get_one_part_of_the_store_and_another_each_time(world):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for number in range(3):
        parts = meet(store, world)
        assert not parts[-1].check(["address"])  # nothing is left of the last time
        parts[0].set("address", str(number))
        assert [part.get("address") for part in parts] == [str(number).encode()] * world


def test_a_process_that_was_killed_while_it_called_is_not_waited_for():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    PrefixStore("distillkit/meet", store).set("call/1", "of one that is no more")
    parts = meet(store, 2)
    parts[0].set("address", "new")
    assert parts[1].get("address") == b"new"


def test_one_that_does_not_come_is_waited_for_so_long_and_no_longer():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with pytest.raises(DistStoreError, match=r"^somebody did not come$"):
        _met(store, 0, 2, timedelta(seconds=0.2))


def test_a_script_may_join_again_and_again():
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "--no-python"]
    done = subprocess.run(
        [sys.executable, *launcher, sys.executable, "-c", PROGRAM],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    # Counted, not split: unbuffered prints of three processes may share a line.
    assert done.stdout.count("joined") == 3, done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="nccl needs a GPU for each of two processes")
def test_two_gpus_train_what_two_processors_train(tmp_path):
    """Over nccl, and with the control group on the CPU: the same curve, and rank 0 alone writes."""
    import json

    curves = []
    for device in ("cpu", "cuda"):
        settings = {
            "data.workers": 0,
            "student.drop_path": 0.0,
            "training.steps": 10,
            "training.log_every": 1,
            "training.precision": '"fp32"',
            "training.device": f'"{device}"',
        }
        given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        out = tmp_path / device
        command = [sys.executable, "-m", "distillkit_cli", "run", "--nproc", "2", "--out", str(out), *given]
        subprocess.run(command, check=True, timeout=300)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        curves.append([line["loss"] for line in lines if line["kind"] == "steps"])
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
