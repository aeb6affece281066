"""A step that is not finite leaves no trace: the same bits as a run from which it was left out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distillkit.hooks import installed_plugins
from distillkit.planning.make import make_plan
from distillkit.recipe import Recipe
from distillkit.session import Session, build_session
from distillkit.training.guard import anchored

STEPS = 8
FAULTS = {1: "nan", 3: "root", 4: "inf", 6: "overflow"}
"""The first step, where an optimiser begins its state; two in a row; a loss and a gradient of each kind."""
VIT = {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 12, "depth": 1, "heads": 2, "drop_path": 0.3}
CNN = {"model": "small-cnn", "width": 4, "image_size": 8}


def session_of(faults: Mapping[int, str], **tables: Mapping[str, Any]) -> Session:
    """A real one, of digits; its loss goes wrong at these steps."""
    faulty = {"loss": "faulty", "kinds": list(faults.values()) or ["nan"], "at": list(faults), "steps": STEPS}
    data: dict[str, Any] = {
        "data": {"train": "digits", "workers": 0},
        "student": VIT,
        "losses": [faulty],
        "training": {"steps": STEPS, "batch_size": 32, "device": "cpu", "precision": "fp32", "ema": 0.9},
        "schedule": {"warmup_epochs": 0.1},
    }
    for table, values in tables.items():
        data[table] = values if table == "student" else {**data.get(table, {}), **values}
    plugins = installed_plugins()
    return build_session(make_plan(Recipe.model_validate(data), plugins), plugins)


def trained(session: Session, *, left_out: Collection[int] = ()) -> tuple[dict[str, Tensor], list[int]]:
    """Everything that a checkpoint keeps after all steps, and those that were skipped.

    Of steps left out only the moving average hears, and the scaler, where there is one.
    """
    skipped = []
    scaler = session.optimisation.scaler
    for window in session.data.windows(0, STEPS):
        step = window.step + 1
        if step not in left_out:
            if session.stepper.step(window).skipped:
                skipped.append(step)
        elif scaler.is_enabled():
            scaler.load_state_dict(scaler.state_dict() | {"scale": scaler.get_scale() / 2, "_growth_tracker": 0})
        assert session.ema is not None
        session.ema.update(session.task.student, step=window.step)
    parts = session.checkpoint(STEPS, {}).parts
    return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}, skipped


CASES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adam": {"optimizer": {"name": "adam"}},
    "sgd": {"optimizer": {"name": "sgd", "lr": 0.05}},
    "lamb, not fused": {"optimizer": {"name": "lamb"}},
    "adan, not fused": {"optimizer": {"name": "adan"}},
    "accumulated": {"training": {"micro_batch_size": 20}},
    "clipped": {"training": {"clip": 0.5}},
    "batch norm, accumulated and clipped": {"student": CNN, "training": {"micro_batch_size": 20, "clip": 0.5}},
    "fp16": {"training": {"precision": "fp16"}},
    "fp16, clipped, not fused": {"training": {"precision": "fp16", "clip": 0.5}, "optimizer": {"name": "lamb"}},
}


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("case", CASES)
def test_a_step_that_is_not_finite_leaves_no_trace(case: str) -> None:
    """Weights, buffers, moving average and the optimiser's state are those of a run from which it was left out."""
    found, skipped = trained(session_of(FAULTS, **CASES[case]))
    expected, none = trained(session_of({}, **CASES[case]), left_out=FAULTS)
    assert skipped == list(FAULTS)
    assert none == []
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.values())


@pytest.mark.parametrize("value", [0.1, -3.0, 1e-30, 1e38, -1e-45])
def test_the_anchor_changes_no_bit_of_a_finite_loss(value: float) -> None:
    """Nor of its gradients: the anchor's own is that of the loss plus 0."""
    gradients, losses = [], []
    for tie in (False, True):
        weight = nn.Parameter(torch.tensor([0.3, -0.7]))
        loss = torch.tensor(value) * weight.exp().sum() / weight.detach().exp().sum()
        loss = anchored(loss, weight) if tie else loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append(weight.grad)
    assert torch.equal(losses[0], losses[1])
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_and_reaches_nothing_makes_the_gradient_of_the_anchor_nan(value: float) -> None:
    """As behind a clamp or a mask, whose gradient is 0."""
    anchor, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    loss = torch.where(torch.tensor(True), torch.tensor(value), other.sum())
    anchored(loss, anchor).backward()
    assert anchor.grad is not None
    assert other.grad is not None
    assert anchor.grad.isnan().all()
    assert other.grad.tolist() == [0.0, 0.0]
