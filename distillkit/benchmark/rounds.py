"""Interleaved rounds: every arm once per round, in alternating order, so that all of them see the same load."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from distillkit.benchmark.own_arms import Step
from distillkit.benchmark.settings import LEAST_ROUNDS, PLAIN_ARMS
from distillkit.benchmark.subject import BenchSubject
from distillkit.compute.cpus import loader_processes
from distillkit.compute.devices import wait_for
from distillkit.compute.freed_memory import keep_freed_memory, return_freed_memory
from distillkit.errors import DistillkitError
from distillkit.messages.text import one_line, with_type

LEAST_ROUND_S = 0.2
"""An arm repeats its batches until its part of a round takes this long."""
WARM_UPS = 2

OnRound = Callable[[str, int, int | None], None]
"""Called with what is measured next, and the number of rounds done and of all rounds."""


@dataclass
class MeasuredArm:
    """One arm: its step, how often it repeats the batches, and milliseconds per image, round by round.

    `step_bytes` is the GPU memory that a step takes in addition to what is there between steps.
    """

    step: Step
    repeats: int = 1
    rounds_ms: list[float] = field(default_factory=list)
    step_bytes: int | None = None


def warm_up(
    subject: BenchSubject,
    makers: Mapping[str, Callable[[BenchSubject], Step]],
    skipped: dict[str, str],
    on_progress: OnRound,
) -> dict[str, MeasuredArm]:
    """Build and warm up every arm. One of `PLAIN_ARMS` that fails, or any that lacks GPU memory, is `skipped`."""
    arms = {}
    for name, make in makers.items():
        on_progress(f"{name}, warm-up", 0, None)
        try:
            arm = MeasuredArm(make(subject))
            seconds = [_seconds(subject, arm.step, 1) for _ in range(WARM_UPS)]
        except torch.OutOfMemoryError:
            skipped[name] = "out of GPU memory; give a smaller --batch"
            continue
        except Exception as error:
            if name not in PLAIN_ARMS:
                raise
            skipped[name] = one_line(error) if isinstance(error, DistillkitError) else with_type(error)
            continue
        arm.repeats = max(1, math.ceil(LEAST_ROUND_S / seconds[-1]))
        arms[name] = arm
    return arms


def measure(
    subject: BenchSubject, arms: Mapping[str, MeasuredArm], rounds: int | None, ends: float, on_progress: OnRound
) -> None:
    """Measure `rounds` rounds, as many as fit without a number; none that would end after `ends`, but at least two."""
    names, number, longest = list(arms), 0, 0.0
    while rounds is None or number < rounds:
        start = time.monotonic()
        if number >= LEAST_ROUNDS and start + longest > ends:
            break
        for name in names if number % 2 == 0 else reversed(names):
            on_progress(name, number, rounds)
            _measure_once(subject, name, arms[name])
        number += 1
        longest = max(longest, time.monotonic() - start)
    on_progress("done", number, number)


def loaded_ms(subject: BenchSubject, step: Step) -> float:
    """Milliseconds per image of a step with the loader, which decodes and augments JPEG files meanwhile.

    The loader starts with full queues, so the first steps are not counted.
    """
    workers = loader_processes(subject.plan.recipe.data.workers)
    uncounted, counted = 2 + 2 * workers, max(8, 2 * workers)
    start, samples = 0.0, 0
    for number, window in enumerate(subject.session.data.windows(0, uncounted + counted)):
        if number == uncounted:
            wait_for(subject.device)
            start = time.perf_counter()
        step(window)
        samples += window.samples if number >= uncounted else 0
    wait_for(subject.device)
    return 1000 * (time.perf_counter() - start) / samples


def _find_own_memory(subject: BenchSubject, name: str, arm: MeasuredArm) -> None:
    """Let an arm find the memory as in a process of its own: only runs of distillkit keep what is freed."""
    if name in PLAIN_ARMS:
        return_freed_memory()
    else:
        keep_freed_memory()
    arm.step(subject.windows[0])


def _measure_once(subject: BenchSubject, name: str, arm: MeasuredArm) -> None:
    if subject.device.type == "cpu":
        _find_own_memory(subject, name, arm)
    on_cuda = subject.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(subject.device)
        held = torch.cuda.memory_allocated(subject.device)
    seconds = _seconds(subject, arm.step, arm.repeats)
    images = arm.repeats * sum(window.samples for window in subject.windows)
    arm.rounds_ms.append(1000 * seconds / images)
    if on_cuda:
        arm.step_bytes = torch.cuda.max_memory_allocated(subject.device) - held


def _seconds(subject: BenchSubject, step: Step, repeats: int) -> float:
    """Seconds of an arm for all batches, `repeats` times."""
    wait_for(subject.device)
    start = time.perf_counter()
    for _ in range(repeats):
        for window in subject.windows:
            step(window)
    wait_for(subject.device)
    return time.perf_counter() - start
