"""Measure which form of a teacher is fastest on this machine (`teachers.form = "measured"`, `plan --time`)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from distillkit.compute.devices import wait_for
from distillkit.contracts.teacher_form import PLAIN, TeacherForm
from distillkit.models.attention_form import attention_modules
from distillkit.models.form_check import FormCheck

ROUNDS = 3
LEAST_GAIN = 0.02
"""Share of the time that a part of a form must save to be kept: less is noise."""
COMPILED_FROM_S = 600.0
"""Seconds of a model in the run from which compiling it is tried; that takes a minute itself."""


@dataclass(frozen=True)
class Trial:
    """A form that was tried: milliseconds per image, seconds until it was ready, and why it cannot be used, if so."""

    form: TeacherForm
    ms: float
    ready_s: float = 0.0
    fault: str | None = None

    def __str__(self) -> str:
        if self.fault is not None:
            return f"{self.form} {self.fault}"
        ready = f" after {self.ready_s:.0f} seconds" if self.form.compiled else ""
        return f"{self.form} {self.ms:.3g} ms an image{ready}"


@dataclass(frozen=True)
class MeasuredForms:
    """The trials of a teacher, for a run of `images` images."""

    trials: tuple[Trial, ...]
    images: int

    @property
    def fastest(self) -> Trial:
        """The trial with the shortest time for the run, preparation included."""
        return min((trial for trial in self.trials if trial.fault is None), key=self._run_s)

    def sentence(self) -> str:
        """What was measured, and the choice."""
        return f"measured {', '.join(map(str, self.trials))}; computes as {self.fastest.form}"

    def _run_s(self, trial: Trial) -> float:
        return trial.ready_s + self.images * trial.ms / 1000


def measure_forms(check: FormCheck, precision: torch.dtype, images: int) -> MeasuredForms:
    """Try one part of a form after the other and keep those that save time; compiling last, if the run is long enough.

    Afterwards the teacher is plain and in float32 again.
    """
    best = _trial(check, PLAIN, precision)
    trials = [best]
    for part in _parts(check, precision):
        trial = _trial(check, _joined(best.form, part), precision)
        trials.append(trial)
        if trial.fault is None and trial.ms < (1 - LEAST_GAIN) * best.ms:
            best = trial
    if images * best.ms / 1000 >= COMPILED_FROM_S:
        trials.append(_trial(check, replace(best.form, compiled=True), precision))
    check.restore()
    return MeasuredForms(tuple(trials), images)


def _parts(check: FormCheck, precision: torch.dtype) -> Iterator[TeacherForm]:
    """The parts without compilation that can make a difference for this network."""
    network = check.teacher.network
    if any(parameter.dim() == 4 for parameter in network.parameters()):
        yield TeacherForm(channels_last=True)
    if any(attention_modules(network)):
        yield TeacherForm(written_attention=True)
    if precision is not torch.float32:
        yield TeacherForm(half_weights=True)


def _joined(form: TeacherForm, part: TeacherForm) -> TeacherForm:
    return TeacherForm(**{name: value or getattr(part, name) for name, value in vars(form).items()})


def _trial(check: FormCheck, form: TeacherForm, precision: torch.dtype) -> Trial:
    start = time.perf_counter()
    fault = check.take(form, precision)
    ready_s = time.perf_counter() - start
    if fault is not None and form != PLAIN:
        return Trial(form, float("inf"), ready_s, fault)
    times, device = [], check.images.device
    for _ in range(ROUNDS):
        wait_for(device)
        start = time.perf_counter()
        check.run()
        wait_for(device)
        times.append(time.perf_counter() - start)
    return Trial(form, 1000 * statistics.median(times) / len(check.seen), ready_s if form.compiled else 0.0)
