"""Slots: the devices and the share of the CPU cores that the arms of a sweep get, several at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from distillkit.compute.cpus import usable_cpus
from distillkit.recipe.schema import Recipe

VISIBLE, THREADS, SHARERS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"


@dataclass(frozen=True)
class Slot:
    """Room for one arm at a time: what its process gets in the environment."""

    number: int
    environment: Mapping[str, str]


def make_slots(jobs: int | None, recipes: Collection[Recipe]) -> list[Slot]:
    """One slot per arm that runs at once.

    By default one per GPU, and one on a machine without any. Each gets a GPU of its own as far as they suffice, through
    CUDA_VISIBLE_DEVICES, if all arms choose their device themselves (`auto` or `cuda`). The cores are divided: threads
    through OMP_NUM_THREADS, unless it is set, and loader processes through LOCAL_WORLD_SIZE, as torchrun does.
    """
    devices = _gpus() if {recipe.training.device for recipe in recipes} <= {"auto", "cuda"} else []
    count = jobs or max(1, len(devices))
    return [Slot(number, _environment(number, count, devices)) for number in range(count)]


def _environment(number: int, count: int, devices: list[str]) -> dict[str, str]:
    environment = {VISIBLE: devices[number % len(devices)]} if devices else {}
    if count > 1:
        environment[SHARERS] = str(count)
        if THREADS not in os.environ:
            environment[THREADS] = str(max(1, usable_cpus() // count))
    return environment


def _gpus() -> list[str]:
    """The GPUs of this process as CUDA_VISIBLE_DEVICES names them."""
    import torch

    # Counts through the driver's management library, which leaves CUDA uninitialised in this process.
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]
