"""Batches that were batches out to several processes, put together again."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from distillkit.compute.distributed import Processes


def gather_rows(rows: Tensor, sizes: Sequence[int], processes: Processes) -> Tensor:
    """The rows of all processes, [n, ...] on the CPU, as one process would have them.

    `rows` are those of this process: its batches one after the other, which have `sizes` rows each. Batch i of all is
    the one of process i modulo their number. Beyond the whole no more is held than the rows of one process.
    """
    if processes.is_alone:
        return rows
    batches: list[list[int]] = [json.loads(text) for text in processes.gather(json.dumps(list(sizes)))]
    turns = [
        (turn, rank)
        for turn in range(max(map(len, batches)))
        for rank in range(len(batches))
        if turn < len(batches[rank])
    ]
    starts: dict[tuple[int, int], int] = {}
    total = 0
    for turn, rank in turns:
        starts[rank, turn] = total
        total += batches[rank][turn]
    whole: Tensor | None = None
    for rank, here in enumerate(batches):
        part = processes.rows_of(rank, rows)
        if not here:
            continue
        if whole is None:
            whole = torch.empty(total, *part.shape[1:], dtype=part.dtype)
        for turn, batch in enumerate(torch.split(part, here)):
            whole[starts[rank, turn] : starts[rank, turn] + len(batch)] = batch
    return rows if whole is None else whole
