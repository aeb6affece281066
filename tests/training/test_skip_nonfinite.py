"""Skipped steps: weights, buffers and optimiser state are bit-equal to a run without the step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from distillkit.planning.make_plan import make_plan
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit.running.session import TrainingSession, build_session
from distillkit.training.interval_averages import IntervalAverages
from distillkit.training.skip_nonfinite import anchored
from distillkit.training.skipped_steps import SkippedSteps

STEPS = 8
FAULTS = {1: "nan", 3: "root", 4: "inf", 6: "overflow"}
"""The first step, where an optimiser creates its state; two in a row; a loss and a gradient of each kind."""
VIT = {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 12, "depth": 1, "heads": 2, "drop_path": 0.3}
CNN = {"model": "small-cnn", "width": 4, "image_size": 8}


def session_of(faults: Mapping[int, str], **tables: Mapping[str, Any]) -> TrainingSession:
    """A training session on digits with a faulty loss at these steps."""
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
    return build_session(make_plan(Recipe.model_validate(data), plugins))


def trained(session: TrainingSession, *, left_out: Collection[int] = ()) -> tuple[dict[str, Tensor], list[int]]:
    """All tensors (any shape) of a checkpoint after the last step, and the skipped steps.

    Steps left out update only the EMA, and the loss scaler, if any.
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
    """Weights, buffers, EMA and optimiser state are those of a run from which the step was left out."""
    found, skipped = trained(session_of(FAULTS, **CASES[case]))
    expected, skipped_without_faults = trained(session_of({}, **CASES[case]), left_out=FAULTS)
    assert skipped == list(FAULTS)
    assert skipped_without_faults == []
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.values())


class Reads(TorchDispatchMode):
    """Counts how often the host reads a number from the device, for which it has to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("case", ["adamw", "sgd", "batch norm, accumulated and clipped", "fp16"])
def test_a_step_with_a_fused_optimiser_does_not_wait_for_the_device(case: str) -> None:
    """Two steps, one of them measured, with everything that the loop does for a step that is not logged or saved.

    `SkippedSteps` reads a step when the next one is added: the second call reads the first step only.
    """
    session = session_of({}, **CASES[case])
    averages = IntervalAverages()
    skipped_steps = SkippedSteps(20, on_skipped=pytest.fail, give_up=pytest.fail)  # type: ignore[arg-type]
    first, *windows = itertools.islice(session.data.windows(0, STEPS), 3)
    session.stepper.step(first)
    with Reads() as found:
        for window in windows:
            outcome = session.stepper.step(window, measure=window is windows[-1])
            averages.add(outcome.averages, window.samples, outcome.skipped)
    assert found.count == 0
    with Reads() as found:
        skipped_steps.add(windows[0], outcome)
        assert found.count == 0
        skipped_steps.add(windows[1], outcome)
        assert found.count == 1


@pytest.mark.gpu
@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("case", ["adamw", "sgd", "clipped", "fp16"])
def test_on_a_gpu_a_skipped_step_does_not_sync_and_leaves_no_trace(case: str) -> None:
    tables = {**CASES[case], "training": {**CASES[case].get("training", {}), "device": "cuda"}}
    session = session_of(FAULTS, **tables)
    found: list[int] = []
    skipped_steps = SkippedSteps(20, on_skipped=lambda skipped: found.append(skipped.step), give_up=pytest.fail)  # type: ignore[arg-type]
    for window in session.data.windows(0, STEPS):
        kept = [parameter.detach().clone() for parameter in session.task.parameters()]
        torch.cuda.set_sync_debug_mode("error" if window.step else "default")
        try:
            outcome = session.stepper.step(window)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        skipped_steps.add(window, outcome)
        skipped_steps.read(window)
        same = all(torch.equal(a, b) for a, b in zip(kept, session.task.parameters(), strict=True))
        assert same == (window.step + 1 in FAULTS)
    assert found == list(FAULTS)


@pytest.mark.parametrize("value", [0.1, -3.0, 1e-30, 1e38, -1e-45])
def test_the_anchor_changes_no_bit_of_a_finite_loss(value: float) -> None:
    """Nor of its gradient: anchoring adds 0 to it."""
    gradients, losses = [], []
    for is_anchored in (False, True):
        weight = nn.Parameter(torch.tensor([0.3, -0.7]))
        loss = torch.tensor(value) * weight.exp().sum() / weight.detach().exp().sum()
        loss = anchored(loss, weight) if is_anchored else loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append(weight.grad)
    assert torch.equal(losses[0], losses[1])
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_loss_with_zero_gradients_makes_the_gradient_of_the_anchor_nan(value: float) -> None:
    """As with a clamp or a mask, whose gradient is 0."""
    anchor, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    loss = torch.where(torch.tensor(True), torch.tensor(value), other.sum())
    anchored(loss, anchor).backward()
    assert anchor.grad is not None
    assert other.grad is not None
    assert anchor.grad.isnan().all()
    assert other.grad.tolist() == [0.0, 0.0]
