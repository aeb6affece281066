"""Cost of a run, by hand, and the matmul rate on a clock that the test moves."""

import time
from itertools import count

import torch

from distillkit.planning.cost import Cost, matmul_rate


def test_cost_by_hand() -> None:
    """A step costs three student forwards and one teacher forward; 16 bytes per trained parameter, 4 per frozen one."""
    cost = Cost(student_flops=10, teacher_flops=100, student_parameters=3, teacher_parameters=7, images=1000)
    assert cost.total_flops == 130_000
    assert cost.memory_bytes == 3 * 16 + 7 * 4


def test_matmul_rate_counts_two_operations_per_multiply_add(monkeypatch) -> None:
    """The clock moves by one second per reading, so each product takes one second."""
    seconds = count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))
    assert matmul_rate(torch.device("cpu"), seconds=4) == 2 * 1024**3
