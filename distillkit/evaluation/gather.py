"""Gather the results of sharded batches from several processes, in the order of one."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from distillkit.compute.distributed import Processes


def gather_rows(rows: Tensor, sizes: Sequence[int], processes: Processes) -> Tensor:
    """The rows of all processes, [n, ...] on the CPU, in the order of one process.

    `rows` [m, ...] are the concatenated batches of this process, with `sizes` rows each. Batch i belongs to the process
    of rank i modulo the number of processes. Besides the result, memory is needed only for the rows of one process.
    """
    if processes.is_alone:
        return rows
    batch_sizes: list[list[int]] = [json.loads(text) for text in processes.gather(json.dumps(list(sizes)))]
    order = [
        (turn, rank)
        for turn in range(max(map(len, batch_sizes)))
        for rank in range(len(batch_sizes))
        if turn < len(batch_sizes[rank])
    ]
    starts: dict[tuple[int, int], int] = {}
    total = 0
    for turn, rank in order:
        starts[rank, turn] = total
        total += batch_sizes[rank][turn]
    gathered: Tensor | None = None
    for rank, sizes_of_rank in enumerate(batch_sizes):
        rows_of_rank = processes.broadcast_rows(rank, rows)
        if not sizes_of_rank:  # not before broadcast_rows: every process must take part in every transfer
            continue
        if gathered is None:
            gathered = torch.empty(total, *rows_of_rank.shape[1:], dtype=rows_of_rank.dtype)
        for turn, batch in enumerate(torch.split(rows_of_rank, sizes_of_rank)):
            gathered[starts[rank, turn] : starts[rank, turn] + len(batch)] = batch
    return rows if gathered is None else gathered
