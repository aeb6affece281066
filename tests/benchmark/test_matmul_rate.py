"""The rate of matrix products, by a clock of which every reading takes a second."""

from itertools import count
from types import SimpleNamespace

import pytest
import torch

from distillkit.benchmark import matmul_rate
from distillkit.benchmark.matmul_rate import SIDES, peak_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("seconds", "readings"), [(4, 7), (30.5, 32)])
def test_the_largest_product_that_fits_into_the_time_counts(monkeypatch, seconds, readings):
    """A product takes a second; the reading that decides on the next size and the one after a product take one, too."""
    clock = count()
    monkeypatch.setattr(matmul_rate, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(matmul_rate, "SIDES", (SIDES[0],) * 2)
    assert matmul_rate.matmul_rate(CPU, seconds) == 2 * 1024**3
    assert next(clock) == readings


@pytest.mark.parametrize(("computes", "precision"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_precision_is_bf16_where_the_device_has_instructions_for_it(monkeypatch, computes, precision):
    monkeypatch.setattr(matmul_rate, "computes_bf16", lambda _device: computes)
    assert peak_precision(CPU) is precision
