"""Notes on large target banks, with the options of the losses that make them smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from distillkit.bank.row_format import RowFormat
from distillkit.bank.shelf import CHECK_BYTES
from distillkit.contracts.model import ModelSpec
from distillkit.messages.text import size_text
from distillkit.planning.plan import BankPlan, LossPlan

LARGE = 10 * 10**9
"""Bytes from which a shelf is large."""


def large_shelves(bank: BankPlan, losses: Mapping[str, LossPlan], student: ModelSpec) -> Iterator[str]:
    """A note on each shelf of at least `LARGE` bytes, with its size under the loss's `smaller_targets`."""
    for name, shelf in bank.shelves.items():
        if shelf.total_bytes < LARGE:
            continue
        note = f"the targets of {name} take {size_text(shelf.total_bytes)} in the bank"
        key = "loss" if len(losses) == 1 else f"losses.{name}"
        smaller = [
            f"{size_text(bank.rows * row_bytes)} with {' '.join(_set(key, changes))}"
            for changes, row_bytes in _proposals(losses[name], student)
        ]
        yield f"{note}; {', '.join(smaller)}" if smaller else note


def _proposals(plan: LossPlan, student: ModelSpec) -> Iterator[tuple[Mapping[str, Any], int]]:
    """The options that the loss proposes, and the bytes of a row with them."""
    given = plan.options.model_dump(by_alias=True)
    for changes in getattr(plan.loss, "smaller_targets", ()):
        options = type(plan.options).model_validate({**given, **changes})
        with torch.device("meta"):
            loss = plan.plugin.call("build", options, student, plan.teacher_spec)
        yield changes, RowFormat.of(loss.targets).bytes + CHECK_BYTES


def _set(key: str, changes: Mapping[str, Any]) -> Iterator[str]:
    for option, value in changes.items():
        yield f"--set {key}.{option}={value}"
