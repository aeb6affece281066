"""Row format: what is stored exactly, and what float16 with a scale per row costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillkit.bank.row_format import RowFormat, finite
from distillkit.contracts.loss import TargetSpec

CPU = torch.device("cpu")


def round_trip(specs, target):
    row_format = RowFormat.of(specs)
    rows = row_format.encode(target)
    assert rows.shape == (len(next(iter(target.values()))), row_format.bytes)
    assert rows.dtype == np.uint8
    return row_format.decode(rows, CPU)


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool", "complex64"]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_an_exact_target_is_stored_bit_for_bit(dtype, shape):
    values = torch.randn(4, *shape).mul(3).to(getattr(torch, dtype))
    back = round_trip({"t": TargetSpec(shape, dtype)}, {"t": values})["t"]
    assert back.dtype == values.dtype
    assert torch.equal(back, values)


def test_an_exact_row_keeps_nan_and_infinity():
    values = torch.tensor([[float("nan"), 1.0], [float("inf"), -0.0]])
    back = round_trip({"t": TargetSpec((2,), "float32")}, {"t": values})["t"]
    assert torch.equal(back.view(torch.int32), values.view(torch.int32))


def test_bytes_of_a_row_are_those_of_its_fields():
    specs = {
        "class": TargetSpec((), "int64"),
        "rows": TargetSpec((3, 5), "float32", exact=False),  # 2 bytes of exponent, 15 halves
        "half": TargetSpec((7,), "float16", exact=False),  # already 16 bits: as it is
    }
    assert RowFormat.of(specs).bytes == 8 + (2 + 30) + 14


def test_a_scaled_half_worked_by_hand():
    # The largest value is 6 < 2^3, so the row is multiplied by 2^(15 - 3): 6 becomes 24576, 0.1 becomes 409.6.
    # float16 has steps of 0.25 there, so 409.6 becomes 409.5, which is 0.0999755859375 after division by 4096.
    back = round_trip({"t": TargetSpec((3,), "float32", exact=False)}, {"t": torch.tensor([[6.0, 0.1, 0.0]])})["t"]
    assert back.tolist() == [[6.0, 0.0999755859375, 0.0]]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_a_scaled_half_keeps_eleven_bits_of_values_near_the_largest(values):
    row = torch.tensor([values])
    back = round_trip({"t": TargetSpec((len(values),), "float32", exact=False)}, {"t": row})["t"]
    largest = row.double().abs().max()
    limit = torch.maximum(row.double().abs() * 2**-11, largest * 2**-39)
    assert ((back.double() - row.double()).abs() <= limit + 2.0**-149).all()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=6))
def test_what_was_decoded_is_stored_unchanged(values):
    specs = {"t": TargetSpec((len(values),), "float32", exact=False)}
    once = round_trip(specs, {"t": torch.tensor([values])})
    assert torch.equal(round_trip(specs, once)["t"], once["t"])


def test_double_precision_survives_large_exponents():
    values = torch.tensor([[1e300, 5e299], [1e-300, 2e-300], [0.0, 0.0]], dtype=torch.float64)
    back = round_trip({"t": TargetSpec((2,), "float64", exact=False)}, {"t": values})["t"]
    assert back.dtype == torch.float64
    torch.testing.assert_close(back, values, rtol=2**-11, atol=0)


def test_a_row_that_is_not_finite_stays_so_and_is_named():
    values = torch.tensor([[1.0, 2.0], [float("inf"), 1.0], [float("nan"), 1.0]])
    target = {"t": values, "class": torch.tensor([0, 1, 2])}
    assert finite(target).tolist() == [True, False, False]
    back = round_trip({"t": TargetSpec((2,), "float32", exact=False), "class": TargetSpec((), "int64")}, target)["t"]
    assert torch.isfinite(back).all(dim=1).tolist() == [True, False, False]
