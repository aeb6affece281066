"""Limits of the gate by precision: how far an exported file may differ from the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distillkit.contracts.exporter import Precision
from distillkit_export.export_options import Tolerance


@dataclass(frozen=True)
class Limits:
    """Limits on the parity metrics of one file; None is no limit.

    `max_relative` is relative to the largest score of a batch. `min_sqnr_db` is in decibels. `min_agreement` is the
    share of images with the same top-1 class, from 0 to 1. `max_accuracy_drop` is in percentage points. One image may
    always differ, because with few images a single one already exceeds the limit.
    """

    max_relative: float | None
    min_sqnr_db: float
    min_cosine: float
    min_agreement: float
    max_accuracy_drop: float


DEFAULT: Mapping[Precision, Limits] = {
    "fp32": Limits(1e-4, 90.0, 0.99999, 0.999, 0.05),
    "fp16": Limits(1e-2, 50.0, 0.9999, 0.995, 0.1),
    "bf16": Limits(5e-2, 35.0, 0.999, 0.99, 0.3),
    "int8": Limits(None, 20.0, 0.98, 0.95, 1.0),
    "fp8": Limits(None, 20.0, 0.98, 0.95, 1.0),
}
"""Measured on forty timm families: float32 differs by at most 4.4e-6 of the largest score, half precision by 1.1e-3.
INT8 networks that kept their accuracy had an SQNR of 24 to 38 dB and an agreement of at least 97.6 %. The rest is a
margin for other processors."""

STRICT: Mapping[Precision, Limits] = {
    "fp32": Limits(1e-5, 100.0, 0.999999, 0.999, 0.05),
    "fp16": Limits(2e-3, 55.0, 0.99999, 0.998, 0.05),
    "bf16": Limits(2e-2, 40.0, 0.9995, 0.995, 0.1),
    "int8": Limits(None, 25.0, 0.99, 0.97, 0.5),
    "fp8": Limits(None, 25.0, 0.99, 0.97, 0.5),
}
LOOSE: Mapping[Precision, Limits] = {
    "fp32": Limits(1e-3, 70.0, 0.9999, 0.995, 0.1),
    "fp16": Limits(5e-2, 40.0, 0.999, 0.99, 0.3),
    "bf16": Limits(1e-1, 30.0, 0.99, 0.98, 0.5),
    "int8": Limits(None, 15.0, 0.95, 0.90, 2.0),
    "fp8": Limits(None, 15.0, 0.95, 0.90, 2.0),
}
TOLERANCES: Mapping[Tolerance, Mapping[Precision, Limits]] = {"strict": STRICT, "default": DEFAULT, "loose": LOOSE}
