"""Slots: how devices and cores are divided between the arms that run at once."""

import pytest
import torch

from distillkit.recipe.files import load_recipe
from distillkit.sweeping import slots
from distillkit.sweeping.slots import make_slots


@pytest.fixture
def machine(monkeypatch):
    """A machine with this many cores and GPUs; the environment limits neither."""

    def build(cores=8, gpus=0):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(slots, "usable_cpus", lambda: cores)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)

    return build


def environments(jobs, device="auto"):
    return [slot.environment for slot in make_slots(jobs, [load_recipe("digits", device=device)])]


def test_one_arm_has_the_whole_machine(machine):
    machine()
    assert environments(None) == [{}]


def test_several_arms_share_the_cores(machine):
    machine(cores=8)
    assert environments(3) == [{"OMP_NUM_THREADS": "2", "LOCAL_WORLD_SIZE": "3"}] * 3


def test_more_arms_than_cores_have_a_thread_each(machine):
    machine(cores=2)
    assert environments(4) == [{"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "4"}] * 4


def test_a_given_number_of_threads_stays(machine, monkeypatch):
    machine(cores=8)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environments(2) == [{"LOCAL_WORLD_SIZE": "2"}] * 2


@pytest.mark.parametrize(
    ("jobs", "visible", "devices"),
    [
        (None, None, ["0", "1", "2"]),
        (2, None, ["0", "1"]),
        (4, None, ["0", "1", "2", "0"]),
        (None, "5, 7,6", ["5", "7", "6"]),
        (None, "GPU-1a,GPU-2b,GPU-3c", ["GPU-1a", "GPU-2b", "GPU-3c"]),
    ],
)
def test_every_arm_has_a_gpu(machine, monkeypatch, jobs, visible, devices):
    machine(cores=12, gpus=3)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(jobs)] == devices


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_arms_that_name_their_device_keep_it(machine, device):
    machine(gpus=3)
    assert environments(None, device) == [{}]
