"""The processes of one run: alone, or started by torchrun on one machine or many.

Every process computes its share of each window, and the gradients are added up; the first one (rank 0) alone writes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, distributed

from distillkit.errors import LostProcessError, UserError

PATIENCE = 30.0
"""Minutes that one process waits for another, where nobody says: torch's own for gloo."""


@dataclass(frozen=True)
class Processes:
    """Which of `world` processes this one is; `local_rank` counts those of this machine.

    The methods are collective where there are several: every process calls them, at the same point. What is small goes
    through `control`, a group on the CPU, so that no device is waited for.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    control: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.world == 1

    @property
    def option(self) -> str:
        """What starts as many processes again, to be put behind a command."""
        return "" if self.is_alone else f" --nproc {self.world}"

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, element by element; on the device of `values`, which stay as they are."""
        if self.is_alone:
            return values
        total = values.detach().clone()
        distributed.all_reduce(total)
        return total

    def sum_all(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """As `sum`, for many tensors in one message."""
        if self.is_alone or not tensors:
            return list(tensors)
        flat = self.sum(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def largest(self, number: int) -> int:
        """The largest number that any process says."""
        if self.is_alone:
            return number
        largest = torch.tensor(number)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self.control)
        return int(largest)

    def count(self, numbers: Tensor) -> Tensor:
        """The sum over all processes of whole numbers on the CPU, element by element."""
        if self.is_alone:
            return numbers
        total = numbers.clone()
        distributed.all_reduce(total, group=self.control)
        return total

    def from_first(self, text: str) -> str:
        """What the first process says; what the others say is not looked at."""
        if self.is_alone:
            return text
        content = torch.tensor(list(text.encode()), dtype=torch.uint8)
        length = torch.tensor(len(content))
        distributed.broadcast(length, 0, group=self.control)
        content = content if self.is_first else torch.empty(int(length), dtype=torch.uint8)
        if len(content):
            distributed.broadcast(content, 0, group=self.control)
        return bytes(content.tolist()).decode()

    def gather(self, text: str) -> list[str]:
        """What every process says, by rank."""
        if self.is_alone:
            return [text]
        content = torch.tensor(list(text.encode()), dtype=torch.uint8)
        lengths = [torch.zeros((), dtype=torch.int64) for _ in range(self.world)]
        distributed.all_gather(lengths, torch.tensor(len(content)), group=self.control)
        longest = int(max(lengths))
        if not longest:
            return [""] * self.world
        padded = torch.nn.functional.pad(content, (0, longest - len(content)))
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        distributed.all_gather(parts, padded, group=self.control)
        return [bytes(part[: int(length)].tolist()).decode() for part, length in zip(parts, lengths, strict=True)]

    def rows_of(self, rank: int, rows: Tensor) -> Tensor:
        """The rows [n, ...] of one process, on the CPU; each process gives its own and gets those of `rank`."""
        if self.is_alone:
            return rows
        form = json.loads(self.gather(json.dumps([list(rows.shape), str(rows.dtype).removeprefix("torch.")]))[rank])
        shape, dtype = form
        received = rows.contiguous() if rank == self.rank else torch.empty(shape, dtype=getattr(torch, dtype))
        if received.numel():
            distributed.broadcast(received, rank, group=self.control)
        return received

    def wait(self) -> None:
        """Until every process is here."""
        if not self.is_alone:
            distributed.barrier(group=self.control)


ALONE = Processes()


_here: list[Processes] = []
"""The processes that this one has joined, while it has."""


@contextmanager
def joined(device: str, *, patience: float = PATIENCE) -> Iterator[Processes]:
    """The processes that torchrun started this one with, as long as the block runs; ALONE without torchrun.

    `device` is `training.device`: gloo carries the gradients of CPUs, nccl those of GPUs, one process each. `patience`
    is how many minutes a process waits for another. A block inside such a block is ALONE: a run that is a part of an
    evaluation.
    Raises: UserError where torchrun started more processes on this machine than it has GPUs; LostProcessError where
        another process ended or says nothing for so long.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ or _here:
        yield ALONE
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available() and (device == "auto" or device.startswith("cuda"))
    if on_gpu:
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; start no "
                "more processes than that, or set training.device=cpu"
            )
        torch.cuda.set_device(local_rank)
    try:
        limit = timedelta(minutes=patience)
        store = _met(_meeting_place(limit), rank, world, limit)
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=world, timeout=limit
        )
        control = distributed.new_group(backend="gloo", timeout=limit)
        _here.append(Processes(rank, world, local_rank, control))
        yield _here[0]
    except RuntimeError as error:
        if not _lost_the_others(error):
            raise
        raise LostProcessError(
            f"process {rank} of {world} lost the others: one of them ended, or did not answer for {patience:g} "
            "minutes (training.patience); start the run again with --auto-resume to go on from the last checkpoint"
        ) from error
    finally:
        _here.clear()
        if distributed.is_initialized():
            distributed.destroy_process_group()


@cache
def _meeting_place(limit: timedelta) -> Any:
    """The store in which the processes find each other: one for as long as this process lives."""
    store, _, _ = next(distributed.rendezvous("env://", timeout=limit))  # type: ignore[attr-defined]  # see _met
    return store


def _met(place: Any, rank: int, world: int, limit: timedelta) -> Any:
    """A part of the store that nobody used before, the same for all processes that are here now.

    The store keeps what was said the last time, and by processes that have been killed since: torchrun starts all
    again and keeps it, and their addresses would be waited for in vain. So each calls with a word of its own, and the
    first one answers to that word, again wherever it changes, until all have repeated what it said.
    Raises: RuntimeError where somebody does not come.
    """
    word, end = uuid4().hex, time.monotonic() + limit.total_seconds()
    place = distributed.PrefixStore("distillkit/meet", place)  # type: ignore[attr-defined]  # torch does not say so
    if rank:
        place.set(f"call/{rank}", word)
    while time.monotonic() < end:
        if rank == 0:
            called = [
                place.get(f"call/{other}").decode() for other in range(1, world) if place.check([f"call/{other}"])
            ]
            for call in called:
                place.set(f"answer/{call}", word)
            if len(called) == world - 1 and place.check([f"repeated/{word}/{other}" for other in range(1, world)]):
                place.set(f"go/{word}", "")
                return distributed.PrefixStore(word, place)  # type: ignore[attr-defined]
        elif place.check([f"answer/{word}"]):
            answer = place.get(f"answer/{word}").decode()
            place.set(f"repeated/{answer}/{rank}", "")
            if place.check([f"go/{answer}"]):
                return distributed.PrefixStore(answer, place)  # type: ignore[attr-defined]
        time.sleep(0.02)
    raise distributed.DistStoreError("somebody did not come")


def _lost_the_others(error: RuntimeError) -> bool:
    """Whether a collective call failed because a process is not there any more. gloo has no error of its own."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
