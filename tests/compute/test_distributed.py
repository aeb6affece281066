"""Rendezvous in torchrun's store, with keys that killed processes have left there."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from torch.distributed import DistStoreError, PrefixStore, TCPStore

from distillkit.compute.distributed import _shared_store
from tests import forked

PROGRAM = """
import sys
from distillkit.compute.distributed import process_group
for number in range(3):
    with process_group("cpu") as processes:
        assert processes.gather(str(processes.rank + number)) == [str(number), str(1 + number), str(2 + number)]
        with process_group("cpu") as inner:
            assert inner.is_alone
print("joined", flush=True)
"""


def shared_stores(store, world, seconds=20):
    """The store of each of `world` processes, simulated by threads with separate connections."""

    def connect(rank):
        own = TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False)
        return _shared_store(own, rank, world, timedelta(seconds=seconds))

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(connect, range(world)))


@pytest.mark.parametrize("world", [2, 3])
def test_each_rendezvous_gives_all_processes_the_same_empty_store(world):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for number in range(3):
        stores = shared_stores(store, world)
        assert not stores[-1].check(["address"])  # no key of the previous rendezvous
        stores[0].set("address", str(number))
        assert [each.get("address") for each in stores] == [str(number).encode()] * world


def test_a_process_that_was_killed_during_the_rendezvous_is_not_waited_for():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    PrefixStore("distillkit/rendezvous", store).set("hello/1", "token of a killed process")
    stores = shared_stores(store, 2)
    stores[0].set("address", "new")
    assert stores[1].get("address") == b"new"


def test_a_process_that_does_not_appear_is_a_timeout():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with pytest.raises(DistStoreError, match=r"^a process did not appear$"):
        _shared_store(store, 0, 2, timedelta(seconds=0.2))


def test_a_script_can_join_a_process_group_repeatedly():
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "--no-python"]
    done = forked.run([*launcher, sys.executable, "-c", PROGRAM], timeout=120)
    # Counted rather than split into lines: unbuffered prints of three processes may share a line.
    assert done.stdout.count("joined") == 3, done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="nccl needs a GPU for each of two processes")
def test_two_gpus_give_the_same_losses_as_two_cpu_processes(tmp_path):
    """Gradients over nccl, the control group on the CPU; only rank 0 writes."""
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
        options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        out = tmp_path / device
        command = [sys.executable, "-m", "distillkit_cli", "run", "--nproc", "2", "--out", str(out), *options]
        subprocess.run(command, check=True, timeout=300)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        curves.append([line["loss"] for line in lines if line["kind"] == "steps"])
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
