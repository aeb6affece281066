"""Measured time of a run per image: teacher, student, and the target bank, with random weights and images."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from distillkit.bank.row_format import RowFormat
from distillkit.bank.shelf import Shelf
from distillkit.compute.devices import wait_for
from distillkit.contracts.loss import TargetSpec
from distillkit.contracts.teacher_form import PLAIN
from distillkit.data.batches import MicroBatch, Window
from distillkit.messages.text import duration
from distillkit.models.form_check import FormCheck
from distillkit.planning.plan import Plan
from distillkit.planning.teacher_form import teacher_images, teacher_precision
from distillkit.running.measured_forms import MeasuredForms, measure_forms
from distillkit.running.session import TrainingSession, build_session
from distillkit.running.student_variants import StudentVariant, measure_variants, variant_line

CPU_IMAGES = 16
"""Largest micro-batch that is measured on a CPU, where a larger one is hardly faster per image."""
ROUNDS = 3


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds per image: of the teachers with the losses' targets, of the rest of a step, and of a row of a bank.

    `images` is the size of the micro-batch that was measured. `read_ms` and `write_ms` are for the rows of all losses.
    `forms` are the measured forms of every teacher, `variants` other settings of the student.
    """

    images: int
    teacher_ms: float
    student_ms: float
    read_ms: float
    write_ms: float
    forms: Mapping[str, MeasuredForms] = field(default_factory=dict)
    variants: tuple[StudentVariant, ...] = ()

    @property
    def pays_after(self) -> int | None:
        """The number of uses of a row from which a bank costs less time than asking the teacher; None for never."""
        saved = self.teacher_ms - self.read_ms
        if saved <= 0:
            return None
        # n uses cost n * teacher without a bank, and teacher + write + (n - 1) * read with it.
        return 1 + math.ceil(self.write_ms / saved) if self.write_ms else 2


def measure_step_times(plan: Plan) -> StepTimes:
    """Measure a plan on its training device. Loads no weights and no images, and writes to a temporary folder only.

    Raises: the errors of building the models.
    """
    # Plain and in float32, which other forms are compared with.
    teachers = {
        name: replace(
            teacher,
            request=replace(teacher.request, weights="none"),
            entry=teacher.entry.model_copy(update={"precision": "fp32"}),
            form=PLAIN,
        )
        for name, teacher in plan.teachers.items()
    }
    student = replace(plan.student, request=replace(plan.student.request, weights=None))
    session = build_session(replace(plan, teachers=teachers, student=student, bank=None))
    window = _window(session)
    images = len(window.micro_batches[0].images)
    forms = {name: _give_form(plan, session, name, window.micro_batches[0].images) for name in session.teachers}

    targets = session.stepper.teacher_targets

    def teach() -> None:
        for batch in window.micro_batches:
            targets(batch.images)
            ask_masked = targets.ask_masked(batch.images)
            if ask_masked is not None:
                ask_masked(torch.rand(images, 1, 1 + math.prod(plan.student.spec.grid), device=session.device))

    teacher_ms = _median_ms(teach, session.device) / images if plan.teachers else 0.0

    def student_ms() -> float:
        return max(_median_ms(lambda: session.stepper.step(window), session.device) / images - teacher_ms, 0.0)

    own_ms = student_ms()
    run_s = plan.steps * plan.samples_per_step * own_ms / 1000
    variants = tuple(measure_variants(session, student_ms, run_s))
    return StepTimes(images, teacher_ms, own_ms, *_bank_ms(plan, images), forms, variants)


def _give_form(plan: Plan, session: TrainingSession, name: str, images: Tensor) -> MeasuredForms:
    """Measure the forms of a teacher, and give it the one of the plan, or the fastest."""
    planned, check = plan.teachers[name], FormCheck(session.teachers[name], plan.teachers[name].wanted, images)
    precision = teacher_precision(planned, session.device)
    asked = teacher_images(plan.recipe, steps=plan.steps, per_epoch=plan.steps_per_epoch, samples=plan.samples_per_step)
    found = measure_forms(check, precision, asked)
    form = found.fastest.form if planned.form is None else planned.form
    if check.take(form, precision) is not None:
        check.restore()
        session.teachers[name].take(PLAIN, precision)
    return found


def time_lines(plan: Plan, times: StepTimes) -> list[tuple[str, str]]:
    """The measured times as (heading, line of text) pairs."""
    images = plan.steps * plan.samples_per_step
    live = images * (times.teacher_ms + times.student_ms) / 1000
    measured = (
        f"{duration(live)} for the steps: teacher {times.teacher_ms:.3g} ms and student {times.student_ms:.3g} ms an "
        f"image, in batches of {times.images}, without loading images"
    )
    lines = [("time", measured), *(("", text) for text in _advice(plan, times, images))]
    if plan.bank is None:
        return lines
    full = images * (times.read_ms + times.student_ms) / 1000
    uses = images / plan.bank.rows
    if times.pays_after is None:
        text = f"reading a row takes {times.read_ms:.2g} ms, longer than the teacher: a bank never pays here"
    else:
        text = (
            f"{duration(full)} with a full bank; a bank pays from use {times.pays_after} of each row on, and this run "
            f"uses each {_times(uses)}" + ("; other runs have to use it too" if uses < times.pays_after else "")
        )
    return [*lines, ("", text)]


def _advice(plan: Plan, times: StepTimes, images: int) -> Iterator[str]:
    """What other forms of the teachers and settings of the student would gain."""
    for name, found in times.forms.items():
        entry, fastest = plan.teachers[name].entry, found.fastest
        key = "teacher" if len(plan.teachers) == 1 else f"teachers.{name}"
        trials = ", ".join(map(str, found.trials))
        now = plan.teachers[name].form
        keep = entry.sharded or now is None or now == fastest.form
        yield f"teacher: {trials}" + ("" if keep else f"; to use the fastest: {key}.form={fastest.form}")
    for variant in times.variants:
        yield variant_line(variant, times.student_ms, images)


def _times(uses: float) -> str:
    """A number of uses in words: "once", "2.5 times"."""
    shown = f"{uses:.3g}"
    return "once" if shown == "1" else f"{shown} times"


def _window(session: TrainingSession) -> Window:
    """A window of one micro-batch of random images."""
    plan, device = session.plan, session.device
    size = min(plan.recipe.training.micro_batch_size or plan.samples_per_step, plan.samples_per_step)
    size = min(size, CPU_IMAGES) if device.type == "cpu" else size
    images = torch.randn(size, 3, *plan.student.spec.image_size, generator=torch.Generator().manual_seed(0))
    labels = torch.full((size, plan.classes), 1 / plan.classes) if plan.classes else None
    batch = MicroBatch(
        images.to(device),
        None if labels is None else labels.to(device),
        torch.full((size,), float(plan.trains_on_labels), device=device),
        ("",) * size,
    )
    return Window(0, 0, False, (batch,), size, size)


def _median_ms(work: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call, the median of a few after one that warms up."""
    times = []
    for _ in range(1 + ROUNDS):
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def _bank_ms(plan: Plan, images: int) -> tuple[float, float]:
    """Milliseconds to read and to write the rows of one image, of all losses."""
    read = write = 0.0
    with TemporaryDirectory() as folder:
        for name, loss in plan.losses.items():
            if loss.teacher is not None and loss.loss.targets:
                place = Path(folder) / name
                place.mkdir()
                read_ms, write_ms = _shelf_ms(place, loss.loss.targets, images)
                read, write = read + read_ms, write + write_ms
    return read, write


def _shelf_ms(place: Path, targets: Mapping[str, TargetSpec], images: int) -> tuple[float, float]:
    """Milliseconds to read and to write the row of one image, of one loss."""
    shelf, cpu = Shelf(place, b"measured", RowFormat.of(targets), writable=True), torch.device("cpu")
    addresses = np.stack([np.arange(images), *(np.zeros((3, images), np.int64))], axis=1)  # [B, 4]
    target = {
        name: torch.zeros(images, *spec.shape, dtype=getattr(torch, spec.dtype)) for name, spec in targets.items()
    }
    write = _median_ms(lambda: shelf.write(addresses, shelf.row_format.encode(target)), cpu)
    read = _median_ms(lambda: shelf.row_format.decode(shelf.read(addresses)[0], cpu), cpu)
    shelf.close()
    return read / images, write / images
