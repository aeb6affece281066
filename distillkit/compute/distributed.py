"""Distributed processes of one run: a single process, or several started by torchrun on one or more machines.

Every process computes its share of each effective batch, and the gradients are summed. Only rank 0 writes files.
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
from distillkit.messages.text import counted

PATIENCE = 30.0
"""Default timeout of a collective call in minutes, the same as torch's for gloo."""


@dataclass(frozen=True)
class Processes:
    """Rank of this process among `world` processes, and collective calls; `local_rank` is its rank on this machine.

    With several processes, all of them must call a method at the same point. Small messages use `control`, a process
    group on the CPU, so that they do not wait for the GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    control: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the process that writes files and prints."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.world == 1

    @property
    def nproc_option(self) -> str:
        """The option that starts the same number of processes again, to append to a command; "" for one process."""
        return "" if self.is_alone else f" --nproc {self.world}"

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum of a tensor of any shape over all processes, on its device. Does not change `values`."""
        if self.is_alone:
            return values
        total = values.detach().clone()  # all_reduce works in place
        distributed.all_reduce(total)
        return total

    def sum_all(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """As `sum`, for many tensors of any shape in one message."""
        if self.is_alone or not tensors:
            return list(tensors)
        flat = self.sum(torch.cat([tensor.reshape(-1) for tensor in tensors]))  # [all values]
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])  # one [n] per tensor
        return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def max(self, number: int) -> int:
        """The largest of the numbers of all processes."""
        if self.is_alone:
            return number
        largest = torch.tensor(number)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self.control)
        return int(largest)

    def count(self, numbers: Tensor) -> Tensor:
        """Element-wise sum over all processes of integers of any shape on the CPU."""
        if self.is_alone:
            return numbers
        total = numbers.clone()
        distributed.all_reduce(total, group=self.control)
        return total

    def broadcast(self, text: str) -> str:
        """The text of rank 0; the text of the other processes is ignored."""
        if self.is_alone:
            return text
        # As bytes, because torch's collectives for objects use pickle. The length first, to allocate the buffer.
        content = torch.tensor(list(text.encode()), dtype=torch.uint8)
        length = torch.tensor(len(content))
        distributed.broadcast(length, 0, group=self.control)
        content = content if self.is_first else torch.empty(int(length), dtype=torch.uint8)
        if len(content):
            distributed.broadcast(content, 0, group=self.control)
        return bytes(content.tolist()).decode()

    def gather(self, text: str) -> list[str]:
        """The texts of all processes, by rank."""
        if self.is_alone:
            return [text]
        content = torch.tensor(list(text.encode()), dtype=torch.uint8)
        lengths = [torch.zeros((), dtype=torch.int64) for _ in range(self.world)]
        distributed.all_gather(lengths, torch.tensor(len(content)), group=self.control)
        longest = int(max(lengths))
        if not longest:
            return [""] * self.world
        padded = torch.nn.functional.pad(content, (0, longest - len(content)))  # [longest]: all_gather needs one shape
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        distributed.all_gather(parts, padded, group=self.control)
        return [bytes(part[: int(length)].tolist()).decode() for part, length in zip(parts, lengths, strict=True)]

    def broadcast_rows(self, rank: int, rows: Tensor) -> Tensor:
        """The rows [n, ...] of process `rank`, on the CPU. Every process passes its own; n may differ."""
        if self.is_alone:
            return rows
        # The receivers do not know the shape; a process without rows does not even know the dtype.
        form = json.loads(self.gather(json.dumps([list(rows.shape), str(rows.dtype).removeprefix("torch.")]))[rank])
        shape, dtype = form
        received = rows.contiguous() if rank == self.rank else torch.empty(shape, dtype=getattr(torch, dtype))
        if received.numel():
            distributed.broadcast(received, rank, group=self.control)
        return received

    def barrier(self) -> None:
        """Wait until every process has reached this call."""
        if not self.is_alone:
            distributed.barrier(group=self.control)


ALONE = Processes()


_joined: list[Processes] = []
"""The process group that this process has joined, empty outside `process_group`."""


@contextmanager
def process_group(
    device: str, *, patience: float = PATIENCE, remedy: str = "start the command again"
) -> Iterator[Processes]:
    """The process group that torchrun started, for the duration of the block; ALONE without torchrun.

    `device` is `training.device`: gloo sums the gradients on CPUs, nccl on GPUs, with one process per GPU. `patience`
    is the timeout of a collective call in minutes. `remedy` is what to do if a process is lost. A nested block is
    ALONE, such as a training run inside an evaluation.
    Raises: UserError if torchrun started more processes on this machine than it has GPUs; LostProcessError if another
        process ended or did not respond within the timeout.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ or _joined:
        yield ALONE
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available() and (device == "auto" or device.startswith("cuda"))
    if on_gpu:
        gpus = torch.cuda.device_count()
        if local_rank >= gpus:
            raise UserError(
                f"process {local_rank} of this machine has no GPU: the machine has {counted(gpus, 'GPU')}; start at "
                "most one process per GPU (--nproc), or set training.device=cpu"
            )
        torch.cuda.set_device(local_rank)  # nccl uses the current device
    try:
        limit = timedelta(minutes=patience)
        store = _shared_store(_torchrun_store(limit), rank, world, limit)
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=world, timeout=limit
        )
        control = distributed.new_group(backend="gloo", timeout=limit)
        _joined.append(Processes(rank, world, local_rank, control))
        yield _joined[0]
    except RuntimeError as error:
        if not _is_lost_process(error):
            raise
        raise LostProcessError(
            f"process {rank} of {world} lost the others: one of them ended, or did not respond for {patience:g} "
            f"minutes; {remedy}"
        ) from error
    finally:
        # A script may call several runs under one torchrun; each needs a new process group.
        _joined.clear()
        if distributed.is_initialized():
            distributed.destroy_process_group()


@cache
def _torchrun_store(limit: timedelta) -> Any:
    """Torchrun's store for the rendezvous: one connection for the lifetime of this process."""
    store, _, _ = next(distributed.rendezvous("env://", timeout=limit))  # type: ignore[attr-defined]  # undeclared
    return store


def _shared_store(store: Any, rank: int, world: int, limit: timedelta) -> Any:
    """Rendezvous: a fresh prefix of torchrun's store, the same for all processes that are running now.

    The store still contains keys of the previous process group and of killed processes: torchrun restarts all processes
    but keeps the store, and connecting to the old addresses would time out. So every process announces itself with a
    random token. Rank 0 acknowledges each token with its own, again if a token changes, until all have confirmed it.
    Raises: RuntimeError if a process does not appear within the timeout.
    """
    token, end = uuid4().hex, time.monotonic() + limit.total_seconds()
    store = distributed.PrefixStore("distillkit/rendezvous", store)  # type: ignore[attr-defined]  # undeclared
    if rank:
        store.set(f"hello/{rank}", token)
    while time.monotonic() < end:
        if rank == 0:
            tokens = [
                store.get(f"hello/{other}").decode() for other in range(1, world) if store.check([f"hello/{other}"])
            ]
            for other_token in tokens:
                store.set(f"reply/{other_token}", token)
            if len(tokens) == world - 1 and store.check([f"confirmed/{token}/{other}" for other in range(1, world)]):
                store.set(f"start/{token}", "")
                return distributed.PrefixStore(token, store)  # type: ignore[attr-defined]
        elif store.check([f"reply/{token}"]):
            reply = store.get(f"reply/{token}").decode()
            store.set(f"confirmed/{reply}/{rank}", "")
            if store.check([f"start/{reply}"]):
                return distributed.PrefixStore(reply, store)  # type: ignore[attr-defined]
        time.sleep(0.02)
    raise distributed.DistStoreError("a process did not appear")


def _is_lost_process(error: RuntimeError) -> bool:
    """Whether a collective call failed because another process is gone."""
    # gloo raises a bare RuntimeError that only its text identifies.
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
