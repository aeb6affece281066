"""A frozen network whose weights are shared out: each process holds a part, and asks for a block when it runs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from distillkit.compute.distributed import Processes

CONTAINERS = (nn.ModuleList, nn.Sequential)


def shard(model: nn.Module, processes: Processes, device: torch.device) -> None:
    """Share the parameters of a frozen model out by FSDP2, in place; every process calls `forward` equally often.

    A block is whole on the device while it runs, and what is in no block while the model does. What the model answers
    stays the same, bit for bit. Blocks are moved to the device one by one, so the whole model is never there.
    """
    mesh = init_device_mesh(device.type, (processes.world,))
    for block in dict.fromkeys(blocks(model)):  # a model may hold a block under two names
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The members of lists and sequences, the innermost that are more than one layer; none where there are no such."""
    for child in model.children():
        for part in child if isinstance(child, CONTAINERS) else ():
            inner = list(blocks(part))
            if inner:
                yield from inner
            elif any(part.children()):
                yield part
        if not isinstance(child, CONTAINERS):
            yield from blocks(child)


def parameter_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of the parameters that this process holds, and of all."""
    held = sum(each.to_local().nbytes if isinstance(each, DTensor) else each.nbytes for each in model.parameters())
    return held, sum(each.numel() * each.element_size() for each in model.parameters())
