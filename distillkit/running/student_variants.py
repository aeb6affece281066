"""Measure what settings of the student's step would gain: attention, bf16 and torch.compile (`plan --time`)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from distillkit.compute.compiler_cache import use_private_cache
from distillkit.compute.devices import computes_bf16
from distillkit.models.attention_form import attention_modules, write_out
from distillkit.plugin.error_attribution import is_exempt
from distillkit.running.measured_forms import COMPILED_FROM_S
from distillkit.running.session import TrainingSession
from distillkit.training.gradient_norms import keep_compiled_graphs


@dataclass(frozen=True)
class StudentVariant:
    """A setting of the student: milliseconds per image, and seconds until its first step was done."""

    setting: str
    ms: float
    ready_s: float = 0.0

    def pays_from(self, ms: float) -> int | None:
        """The number of images from which it costs less than `ms` per image, preparation included; None for never."""
        saved = ms - self.ms
        return None if saved <= 0 else math.ceil(1000 * self.ready_s / saved)


def measure_variants(
    session: TrainingSession, step_ms: Callable[[], float], student_s: float
) -> Iterator[StudentVariant]:
    """Measure the settings that can make a difference; the student is compiled afterwards, if the run is long enough.

    `step_ms` measures a step, in milliseconds per image; `student_s` are the seconds of the student in the run.
    """
    student, training = session.task.student, session.plan.recipe.training
    modules = list(attention_modules(student))
    if training.attention == "auto" and any(module.fused_attn for module in modules):
        with _changed_attention(session):
            yield StudentVariant("training.attention=written", step_ms())
    if training.precision == "auto" and session.device.type == "cpu" and computes_bf16(session.device):
        before, session.task.precision = session.task.precision, torch.bfloat16
        with _changed_attention(session):
            yield StudentVariant("training.precision=bf16", step_ms())
        session.task.precision = before
    if not training.compile and student_s >= COMPILED_FROM_S:
        use_private_cache()
        keep_compiled_graphs()
        student.compile()
        start = time.perf_counter()
        try:
            step_ms()
        # A compiler may fail in any way, also inside a plugin's loss.
        except Exception as error:
            if is_exempt(error):
                raise
            return
        ready_s = time.perf_counter() - start
        yield StudentVariant("training.compile=true", step_ms(), ready_s)


def variant_line(variant: StudentVariant, student_ms: float, images: int) -> str:
    """What a variant gains in a run of `images` images, whose student takes `student_ms` an image."""
    text = f"{variant.setting} would take {variant.ms:.3g} ms an image for the student"
    pays_from = variant.pays_from(student_ms)
    if pays_from is None:
        return f"{text}, not less"
    if not variant.ready_s:
        return text
    enough = "" if images >= pays_from else f"; this run has {images:,}"
    return f"{text} after {variant.ready_s:.0f} seconds, and pays from {pays_from:,} images on{enough}"


@contextmanager
def _changed_attention(session: TrainingSession) -> Iterator[None]:
    """Write out the student's attention within the context."""
    before = [(module, module.fused_attn) for module in attention_modules(session.task.student)]
    write_out(session.task.student)
    try:
        yield
    finally:
        for module, fused in before:
            setattr(module, "fused_attn", fused)  # noqa: B010 - an nn.Module declares no such attribute
