"""The training loop: when it logs, evaluates, saves and gives up."""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillkit.compute.distributed import ALONE
from distillkit.data.batches import Window
from distillkit.training.interval_averages import IntervalAverages
from distillkit.training.loop import Callbacks, Intervals, train
from distillkit.training.model_seed import seed_model_noise
from distillkit.training.skipped_steps import Skipped, SkippedSteps
from distillkit.training.step import StepResult


class Counter:
    """A stepper whose loss is the step number from 0, or NaN at the steps `bad`, counted from 1.

    `measured` lists the steps, from 1, with `measure=True`.
    """

    norms: ClassVar = {"grad_norm": torch.tensor(1.0)}
    optimisation = SimpleNamespace(lr=lambda: 0.1)
    task = None
    processes = ALONE

    def __init__(self, bad: Collection[int] = ()) -> None:
        self.bad = bad
        self.measured: list[int] = []

    def step(self, window: Window, *, measure: bool) -> StepResult:
        if measure:
            self.measured.append(window.step + 1)
        is_bad = window.step + 1 in self.bad
        loss = torch.tensor(math.nan if is_bad else float(window.step))
        averages = {"hard/hard": loss, "soft/soft": torch.tensor(1.0), "loss": loss}
        return StepResult(averages, (averages,), torch.tensor(is_bad))


def windows(start: int, steps: int, per_epoch: int) -> Iterator[Window]:
    for step in range(start, steps):
        yield Window(step, step // per_epoch, (step + 1) % per_epoch == 0, (), 4, 4)


def trained(windows: Iterator[Window], steps: Generator[int, Window | None, int]) -> int:
    """Send the windows that the loop asks for; the number of steps done."""
    try:
        wanted = next(steps)
        for window in windows:
            assert window.step == wanted
            wanted = steps.send(window)
        steps.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError


class TooManyError(Exception):
    """Raised by `give_up` with the current step, counted from 1, and the skipped step."""


def give_up(window: Window, skipped: Skipped) -> NoReturn:
    raise TooManyError(window.step + 1, skipped)


def events_of(
    intervals: Intervals, start: int = 0, bad: Collection[int] = (), limit: int = 20, stop: int = 0
) -> list[tuple[str, float]]:
    """The calls of the loop's callbacks, in order, if it is stopped after `stop` steps or not at all."""
    events: list[tuple[str, float]] = []
    callbacks = Callbacks(
        logged=lambda record: events.append(("log", record["loss"])),
        evaluate=lambda step: events.append(("evaluate", float(step))) or {},
        epoch_ended=lambda record: events.append(("epoch", record["epoch"])),
        save=lambda step: events.append(("save", float(step))),
    )
    stepper: Any = Counter(bad)
    skipped_steps = SkippedSteps(
        limit, on_skipped=lambda skipped: events.append(("skipped", float(skipped.step))), give_up=give_up
    )
    steps = train(stepper, skipped_steps, intervals, callbacks, start=start)
    trained(windows(start, stop or intervals.steps, intervals.steps_per_epoch), steps)
    return events


def test_the_intervals_of_a_run_that_ends_inside_an_epoch() -> None:
    """Five steps, epochs of three, logs after the first and every two: means of steps 0, 1, 2-3 and 4."""
    assert events_of(Intervals(5, 3, log_every=2, evaluate_every=2, checkpoint_every=None)) == [
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


def test_norms_are_measured_at_logged_steps_only_and_a_resumed_run_has_no_second_first_step() -> None:
    intervals = Intervals(11, 4, log_every=5, evaluate_every=9, checkpoint_every=None)
    logged: list[float] = []
    callbacks = Callbacks(
        logged=lambda record: logged.append(record["step"]),
        evaluate=lambda _step: {},
        epoch_ended=lambda _record: None,
        save=lambda _step: None,
    )
    for start, due in ((0, [1, 5, 10, 11]), (1, [5, 10, 11]), (5, [10, 11])):
        stepper: Any = Counter()
        logged.clear()
        skipped_steps = SkippedSteps(20, on_skipped=pytest.fail, give_up=give_up)
        trained(windows(start, 11, 4), train(stepper, skipped_steps, intervals, callbacks, start=start))
        assert logged == stepper.measured == due


def test_checkpoints_between_epochs() -> None:
    events = events_of(Intervals(6, 6, log_every=10, evaluate_every=1, checkpoint_every=4))
    assert [step for kind, step in events if kind == "save"] == [4.0, 6.0]


@pytest.mark.parametrize(("stop", "saved"), [(3, [3.0]), (4, [4.0]), (5, [4.0, 5.0])])
def test_a_run_that_is_stopped_saves_its_last_step_once(stop: int, saved: list[float]) -> None:
    events = events_of(Intervals(6, 6, log_every=10, evaluate_every=1, checkpoint_every=4), bad={stop}, stop=stop)
    assert [step for kind, step in events if kind == "save"] == saved
    assert events[-2:] == [("skipped", float(stop)), ("save", float(stop))]


@given(steps=st.integers(1, 30), per_epoch=st.integers(1, 10), start=st.integers(0, 29), every=st.integers(1, 7))
def test_the_last_step_is_always_logged_evaluated_and_saved(steps: int, per_epoch: int, start: int, every: int) -> None:
    events = events_of(Intervals(steps, per_epoch, every, evaluate_every=3, checkpoint_every=None), start=start)
    if start >= steps:
        assert events == []
        return
    assert [kind for kind, _ in events[-4:]] == ["log", "evaluate", "epoch", "save"]
    assert events[-1] == ("save", float(steps))


def test_an_interval_averages_the_steps_taken_and_an_empty_one_is_merged_into_the_next() -> None:
    """Nine steps, logs every two; 3, 4 and 6 are skipped, so only step 5, with loss 4, counts for steps 3 to 6."""
    events = events_of(Intervals(9, 9, log_every=2, evaluate_every=1, checkpoint_every=None), bad={3, 4, 6})
    assert [event for event in events if event[0] in ("log", "skipped")] == [
        ("log", 0.0),
        ("log", 1.0),
        ("skipped", 3.0),
        ("skipped", 4.0),
        ("skipped", 6.0),
        ("log", 4.0),
        ("log", 6.5),
        ("log", 8.0),
    ]


def test_a_skipped_step_is_known_before_anything_is_saved() -> None:
    events = events_of(Intervals(6, 6, log_every=100, evaluate_every=1, checkpoint_every=2), bad={2})
    assert events[:3] == [("log", 0.0), ("skipped", 2.0), ("save", 2.0)]


@given(
    bad=st.sets(st.integers(1, 40)),
    limit=st.integers(1, 6),
    every=st.integers(1, 9),
    start=st.integers(0, 39),
    save=st.integers(1, 9),
)
def test_the_run_gives_up_at_the_step_that_is_one_too_many_in_a_row(
    bad: set[int], limit: int, every: int, start: int, save: int
) -> None:
    """Against a plain count over all steps, for any step of resuming, logging and saving."""
    in_a_row = fatal = 0
    rows = [0]
    for step in range(1, 41):
        in_a_row = in_a_row + 1 if step in bad else 0
        rows.append(in_a_row)
        if not fatal and step > start and in_a_row >= limit:
            fatal = step
    if rows[start] >= limit:
        return  # the run gives up before a checkpoint of this step is written
    found: list[Skipped] = []
    saved: dict[int, int] = {}
    callbacks = Callbacks(
        logged=lambda _record: None,
        evaluate=lambda _step: {},
        epoch_ended=lambda _record: None,
        save=lambda step: saved.update({step: skipped_steps.in_a_row}),
    )
    skipped_steps = SkippedSteps(limit, on_skipped=found.append, give_up=give_up, in_a_row=rows[start])
    stepper: Any = Counter(bad)
    intervals = Intervals(40, 13, every, evaluate_every=1, checkpoint_every=save)
    try:
        trained(windows(start, 40, 13), train(stepper, skipped_steps, intervals, callbacks, start=start))
    except TooManyError as error:
        current, skipped = error.args
        assert current == skipped.step == fatal
        assert skipped.in_a_row == limit
        assert skipped.note == f"step {fatal} was skipped: the loss is not finite (hard/hard)"
    else:
        assert not fatal
    last = fatal or 40
    assert [(skipped.step, skipped.in_a_row) for skipped in found] == [
        (step, rows[step]) for step in range(start + 1, last + 1) if step in bad
    ]
    assert saved == {step: rows[step] for step in saved}


def test_the_fp16_scale_search_does_not_count_as_skipped_in_a_row() -> None:
    """An overflow down to a scale of 1 is not counted, below 1 it is. A loss that is not finite always counts."""
    found: list[Skipped] = []
    scale = [4.0]
    scaler: Any = SimpleNamespace(is_enabled=lambda: True, get_scale=lambda: scale[0])
    skipped_steps = SkippedSteps(4, on_skipped=found.append, give_up=give_up, scaler=scaler)
    (window,) = windows(0, 1, 1)
    finite, bad = {"loss": torch.tensor(1.0)}, {"a/b": torch.tensor(1.0), "loss": torch.tensor(math.inf)}
    for averages, after in ((finite, 2.0), (finite, 1.0), (bad, 0.5), (finite, 0.25)):
        scale[0] = after
        skipped_steps.add(window, StepResult(averages, (averages,), torch.tensor(True)))
        skipped_steps.read(window)
    assert [(skipped.in_a_row, skipped.note) for skipped in found] == [
        (0, "step 1 was skipped: the gradient overflowed; fp16 continues with a smaller loss scale"),
        (1, "step 1 was skipped: the loss is finite, but its gradient is not"),
        (2, "step 1 was skipped: the loss is not finite (the sum of all terms)"),
        (3, "step 1 was skipped: the loss is finite, but its gradient is not"),
    ]


def test_interval_averages_with_throughput_and_data_wait() -> None:
    """Two steps of ten images in eight seconds, six of them waiting for data."""
    now = [100.0]
    averages = IntervalAverages(clock=lambda: now[0])
    now[0] = 200.0
    averages.start()
    for number in range(2):
        now[0] += 4.0
        averages.add(
            {"labels": torch.tensor(float(number)), "loss": torch.tensor(3.0)}, 10, torch.tensor(False), waited_s=3.0
        )
    assert averages.read({"grad_norm": torch.tensor(2.0)}) == {
        "loss/labels": 0.5,
        "loss": 3.0,
        "images_per_s": 2.5,
        "data_wait": 0.75,
        "grad_norm": 2.0,
    }


def test_model_noise_depends_on_seed_step_micro_batch_and_rank() -> None:
    def draw(seed: int, step: int, micro_batch: int, rank: int) -> float:
        seed_model_noise(seed, step=step, micro_batch=micro_batch, rank=rank, device=torch.device("cpu"))
        return float(torch.rand(()))

    assert draw(1, 2, 3, 0) == draw(1, 2, 3, 0)
    assert len({draw(1, 2, 3, 0), draw(2, 2, 3, 0), draw(1, 3, 3, 0), draw(1, 2, 2, 0), draw(1, 2, 3, 1)}) == 5
