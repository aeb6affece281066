"""The loop's rhythm, and what it refuses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillkit.data.batches import Window
from distillkit.errors import TrainingError
from distillkit.processes import ALONE
from distillkit.training.loop import Callbacks, Rhythm, train
from distillkit.training.meter import Meter
from distillkit.training.noise import seed_model_noise


class Counter:
    """A stepper that only counts: its loss is the step's number. It was asked to measure at `measured`."""

    norms: ClassVar = {"grad_norm": torch.tensor(1.0)}
    optimisation = SimpleNamespace(lr=lambda: 0.1)
    task = None
    processes = ALONE

    def __init__(self, loss: float = 1.0) -> None:
        self.loss = loss
        self.measured: list[int] = []

    def step(self, window: Window, *, measure: bool) -> dict[str, torch.Tensor]:
        if measure:
            self.measured.append(window.step + 1)
        return {"hard/hard": torch.tensor(self.loss * window.step), "loss": torch.tensor(self.loss * window.step)}


def windows(start: int, steps: int, per_epoch: int) -> Iterator[Window]:
    for step in range(start, steps):
        yield Window(step, step // per_epoch, (step + 1) % per_epoch == 0, (), 4, 4)


def heard(rhythm: Rhythm, start: int = 0, loss: float = 1.0) -> list[tuple[str, float]]:
    """What the loop told its callbacks, in order."""
    events: list[tuple[str, float]] = []
    callbacks = Callbacks(
        logged=lambda record: events.append(("log", record["loss"])),
        evaluate=lambda step: events.append(("evaluate", float(step))) or {},
        epoch_ended=lambda record: events.append(("epoch", record["epoch"])),
        save=lambda step: events.append(("save", float(step))),
    )
    stepper: Any = Counter(loss)
    train(windows(start, rhythm.steps, rhythm.steps_per_epoch), stepper, rhythm, callbacks)
    return events


def test_the_rhythm_of_a_run_that_ends_inside_an_epoch() -> None:
    """Five steps, epochs of three, logs every two and of the first by itself: means of steps 0, 1, 2-3 and 4."""
    assert heard(Rhythm(5, 3, log_every=2, evaluate_every=2, checkpoint_every=None)) == [
        ("log", 0.0),
        ("log", 1.0),
        ("epoch", 1.0),
        ("save", 3.0),
        ("log", 2.5),
        ("log", 4.0),
        ("evaluate", 5.0),
        ("epoch", 2.0),
        ("save", 5.0),
    ]


def test_norms_are_measured_at_the_logged_steps_alone_and_a_resumed_run_has_no_second_first_step() -> None:
    rhythm = Rhythm(11, 4, log_every=5, evaluate_every=9, checkpoint_every=None)
    told: list[float] = []
    callbacks = Callbacks(
        logged=lambda record: told.append(record["step"]),
        evaluate=lambda _step: {},
        epoch_ended=lambda _record: None,
        save=lambda _step: None,
    )
    for start, due in ((0, [1, 5, 10, 11]), (1, [5, 10, 11]), (5, [10, 11])):
        stepper: Any = Counter()
        told.clear()
        train(windows(start, rhythm.steps, rhythm.steps_per_epoch), stepper, rhythm, callbacks)
        assert told == stepper.measured == due


def test_checkpoints_between_epochs() -> None:
    events = heard(Rhythm(6, 6, log_every=10, evaluate_every=1, checkpoint_every=4))
    assert [step for kind, step in events if kind == "save"] == [4.0, 6.0]


@given(steps=st.integers(1, 30), per_epoch=st.integers(1, 10), start=st.integers(0, 29), every=st.integers(1, 7))
def test_the_last_step_is_always_logged_evaluated_and_saved(steps: int, per_epoch: int, start: int, every: int) -> None:
    events = heard(Rhythm(steps, per_epoch, every, evaluate_every=3, checkpoint_every=None), start=start)
    if start >= steps:
        assert events == []
        return
    assert [kind for kind, _ in events[-4:]] == ["log", "evaluate", "epoch", "save"]
    assert events[-1] == ("save", float(steps))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_term() -> None:
    with pytest.raises(TrainingError) as caught:
        heard(Rhythm(4, 4, log_every=2, evaluate_every=1, checkpoint_every=None), loss=float("nan"))
    assert str(caught.value) == (
        "the loss is not finite at step 1 (loss/hard/hard); "
        "lower optimizer.lr, set training.clip, or use training.precision=bf16 or fp32"
    )


def test_the_meter_averages_counts_and_times() -> None:
    meter = Meter()

    def slowly() -> Iterator[int]:
        for number in range(2):
            time.sleep(0.02)
            yield number

    for number in meter.timed(slowly()):
        meter.add({"labels": torch.tensor(float(number)), "loss": torch.tensor(3.0)}, images=10)
    record = meter.read({"grad_norm": torch.tensor(2.0)})
    assert record["loss/labels"] == 0.5
    assert record["loss"] == 3.0
    assert record["grad_norm"] == 2.0
    assert 0 < record["images_per_s"] <= 20 / 0.04
    assert 0.5 < record["data_wait"] <= 1


def test_model_noise_is_a_function_of_where_the_run_stands() -> None:
    def draw(seed: int, step: int, micro_batch: int, rank: int) -> float:
        seed_model_noise(seed, step=step, micro_batch=micro_batch, rank=rank, device=torch.device("cpu"))
        return float(torch.rand(()))

    assert draw(1, 2, 3, 0) == draw(1, 2, 3, 0)
    assert len({draw(1, 2, 3, 0), draw(2, 2, 3, 0), draw(1, 3, 3, 0), draw(1, 2, 2, 0), draw(1, 2, 3, 1)}) == 5
