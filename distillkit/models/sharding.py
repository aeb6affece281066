"""Shard a frozen network with FSDP2: each process holds a shard of every block and gathers the block when it runs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from distillkit.compute.distributed import Processes

CONTAINERS = (nn.ModuleList, nn.Sequential)


def shard(model: nn.Module, processes: Processes, device: torch.device) -> None:
    """Shard the parameters of a frozen model with FSDP2, in place; every process must call `forward` equally often.

    A block is complete on the device while it runs; parameters outside of blocks while the model runs. Outputs stay the
    same, bit for bit. Blocks are moved to the device one by one, so that it never holds all of the model.
    """
    # These modules import torch's compiler, which takes seconds and which a plan does not need.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes.world,))
    for block in dict.fromkeys(blocks(model)):  # a block may be registered under two names
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # The model last: FSDP2 then leaves it the parameters that are in no block.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The innermost members of ModuleList and Sequential that are more than one layer; possibly none."""
    for child in model.children():
        for member in child if isinstance(child, CONTAINERS) else ():
            inner = list(blocks(member))
            if inner:
                yield from inner
            elif any(member.children()):
                yield member
        if not isinstance(child, CONTAINERS):
            yield from blocks(child)


def parameter_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of the parameters: held by this process, and in all."""
    from torch.distributed.tensor import DTensor

    held = sum(each.to_local().nbytes if isinstance(each, DTensor) else each.nbytes for each in model.parameters())
    return held, sum(each.numel() * each.element_size() for each in model.parameters())
