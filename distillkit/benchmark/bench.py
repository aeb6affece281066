"""Library function of `distillkit bench`: measure all arms, and write bench.json, bench.md and bench.png."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from distillkit.benchmark import own_arms, plain_arms
from distillkit.benchmark.chart import chart
from distillkit.benchmark.deit_arm import deit
from distillkit.benchmark.matmul_rate import matmul_rate, peak_precision
from distillkit.benchmark.own_arms import Step
from distillkit.benchmark.result import BenchResult, LoaderResult, arm_results
from distillkit.benchmark.rounds import MeasuredArm, OnRound, loaded_ms, measure, warm_up
from distillkit.benchmark.settings import OWN_ARMS, ROUNDS, BenchSettings
from distillkit.benchmark.subject import BenchSubject, open_subject
from distillkit.compute.cpus import loader_processes
from distillkit.compute.machine import MachineCard, describe_machine
from distillkit.errors import UnavailableError
from distillkit.plugin.registry import PluginRegistry
from distillkit.storage.atomic import write_bytes, write_json, write_text

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")
PEAK_S = 0.5
"""Seconds in which the rate of matrix products is measured, before the rounds and after."""
JSON_FILE, MARKDOWN_FILE, PICTURE = "bench.json", "bench.md", "bench.png"


def bench(settings: BenchSettings, plugins: PluginRegistry, on_progress: OnRound) -> BenchResult:
    """Measure the arms on this machine.

    Raises: UnavailableError if none of them works; UserError; the errors of planning and building the models.
    """
    ends = float("inf") if settings.minutes is None else time.monotonic() + 60 * settings.minutes
    rounds = settings.rounds or (ROUNDS if settings.minutes is None else None)
    here, skipped = describe_machine(PACKAGES), dict[str, str]()
    with TemporaryDirectory(prefix="distillkit-") as folder:
        on_progress("models and batches", 0, rounds)
        subject = open_subject(settings, plugins, Path(folder) / "bank")
        arms = warm_up(subject, _makers(settings), skipped, on_progress)
        if not arms:
            raise UnavailableError(f"no arm works here: {'; '.join(f'{name}: {why}' for name, why in skipped.items())}")
        loader = _loader(subject, arms, on_progress)
        peak = matmul_rate(subject.device, PEAK_S)
        measure(subject, arms, rounds, ends, on_progress)
        peak = max(peak, matmul_rate(subject.device, PEAK_S))
    return _result(here, subject, arms, peak, loader, skipped)


def write(result: BenchResult, directory: Path) -> None:
    """Write the result as JSON, Markdown and a picture."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / JSON_FILE, result.as_dict())
    write_text(directory / MARKDOWN_FILE, result.markdown())
    write_bytes(directory / PICTURE, chart(result))


def _makers(settings: BenchSettings) -> dict[str, Callable[[BenchSubject], Step]]:
    """The function that builds each chosen arm."""
    makers: dict[str, Callable[[BenchSubject], Step]] = {
        "minimal": plain_arms.minimal,
        "student": own_arms.student,
        "live": own_arms.live,
        "bank": own_arms.bank,
        "timm": plain_arms.timm,
        "timm-bf16": plain_arms.timm_bf16,
    }
    if settings.deit is not None:
        makers["deit"] = partial(deit, clone=settings.deit)
    return {name: makers[name] for name in settings.chosen_arms}


def _loader(subject: BenchSubject, arms: Mapping[str, MeasuredArm], on_progress: OnRound) -> LoaderResult | None:
    """One of our arms with the loader; None if none of ours is measured."""
    name = next((name for name in OWN_ARMS if name in arms), None)
    if name is None:
        return None
    on_progress(f"{name} with loader", 0, None)
    workers = loader_processes(subject.plan.recipe.data.workers)
    return LoaderResult(name, workers, loaded_ms(subject, arms[name].step))


def _result(
    here: MachineCard,
    subject: BenchSubject,
    arms: Mapping[str, MeasuredArm],
    peak: float,
    loader: LoaderResult | None,
    skipped: Mapping[str, str],
) -> BenchResult:
    plan, device = subject.plan, subject.device
    height, width = plan.student.spec.image_size
    gflop = {"student": plan.cost.student_flops / 1e9, "teacher": plan.cost.teacher_flops / 1e9}
    conditions = {
        "teacher": plan.recipe.teachers[0].model,
        "student": plan.recipe.student.model,
        "loss": subject.loss.plugin.name,
        "image_size": f"{height}x{width}",
        "batch": plan.samples_per_step,
        "precision": str(subject.session.precision).removeprefix("torch."),
        "teacher_form": str(subject.form.form),
        "teacher_notes": list(subject.form.notes),
        "compile": plan.recipe.training.compile,
        "gflop_per_image": gflop,
        "peak_precision": str(peak_precision(device)).removeprefix("torch."),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }
    reference, results = arm_results(
        {name: arm.rounds_ms for name, arm in arms.items()},
        {name: arm.step_bytes for name, arm in arms.items()},
        gflop,
    )
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return BenchResult(made, here, conditions, reference, peak / 1e9, results, loader, skipped)
