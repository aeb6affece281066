"""Overhead of a training step compared with a minimal hand-written PyTorch loop that does the same work.

Both loops get the same batches, built beforehand and held in memory, the same models from the same weights, the same
optimiser, clipping, autocast and teacher, and the same losses (hard distillation on a distillation token, label
smoothing). Rounds are interleaved; the ratio is computed round by round. The loops are rebuilt five times, in
alternating order: depending on the memory addresses it gets, a loop is faster or slower by a few percent.

A logged step does more than the hand-written loop: it measures the gradient norm of each of the two terms, one more
backward each. So distillkit's loop runs twice, once without a logged step and once with one in fifty, the default.

    python benchmarks/step_overhead.py [--rounds 30] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from machine import machine
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from distillkit.compute.freed_memory import keep_freed_memory
from distillkit.compute.paired_ratio import compare
from distillkit.contracts.model import Signal
from distillkit.data.batches import MicroBatch, Window
from distillkit.models.class_matching import ClassMap
from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.models.timm_model import TimmModel
from distillkit.recipe.schema import Recipe
from distillkit.training.loop import Callbacks, Intervals, train
from distillkit.training.optimisation import build_optimisation
from distillkit.training.skipped_steps import SkippedSteps
from distillkit.training.step import Stepper, StepSettings
from distillkit.training.task import DistillationTask, Objective
from distillkit.training.teacher_targets import LossSlot, TeacherSlot, TeacherTargets
from distillkit_plugins.losses.hard import HardDistillation

CLASSES, SMOOTHING, CLIP, LR = 10, 0.1, 1.0, 1e-3
LOG_EVERY, NEVER = 50, 1_000_000
BUILDS = 5
BOTH_HEADS = {Signal.LOGITS: (), Signal.DISTILL_LOGITS: ()}


@dataclass(frozen=True)
class Geometry:
    """A student small enough for a short step on a CPU."""

    name: str
    width: int
    depth: int
    heads: int
    batch_size: int
    precision: torch.dtype


GEOMETRIES = (
    Geometry("small, fp32", width=48, depth=2, heads=2, batch_size=8, precision=torch.float32),
    Geometry("middle, fp32", width=96, depth=4, heads=3, batch_size=8, precision=torch.float32),
    Geometry("deep, fp32", width=48, depth=6, heads=2, batch_size=8, precision=torch.float32),
    Geometry("middle, bf16", width=96, depth=4, heads=3, batch_size=8, precision=torch.bfloat16),
)


def build_student(geometry: Geometry) -> TimmModel:
    """Build the student; equal every time."""
    torch.manual_seed(0)
    return TimmModel.create(
        "deit_tiny_distilled_patch16_224",
        name="student",
        classes=CLASSES,
        image_size=(32, 32),
        patch_size=4,
        embed_dim=geometry.width,
        depth=geometry.depth,
        num_heads=geometry.heads,
    )


def build_teacher(student: TimmModel) -> FrozenTeacher:
    """A small teacher. The student gets its normalisation, so that both loops pass it the same tensor."""
    torch.manual_seed(1)
    model = TimmModel.create("test_resnet", name="teacher", classes=CLASSES)
    pixels = replace(student.spec, mean=model.spec.mean, std=model.spec.std)
    return FrozenTeacher(model, student=pixels, size="student", class_map=ClassMap(None), precision=torch.float32)


def build_windows(geometry: Geometry, steps: int) -> list[Window]:
    """Batches in memory, with smoothed labels; they start with the second step, since the first is always logged."""
    generator = torch.Generator().manual_seed(2)
    windows = []
    for step in range(1, steps + 1):
        images = torch.randn(geometry.batch_size, 3, 32, 32, generator=generator)
        classes = torch.randint(CLASSES, (geometry.batch_size,), generator=generator)
        labels = torch.full((geometry.batch_size, CLASSES), SMOOTHING / CLASSES)
        labels[torch.arange(len(classes)), classes] += 1 - SMOOTHING
        batch = MicroBatch(images, labels, torch.ones(len(classes)), tuple(map(str, range(len(classes)))))
        windows.append(Window(step, 0, False, (batch,), len(classes), len(classes)))
    return windows


def distillkit_loop(geometry: Geometry, windows: list[Window], *, log_every: int) -> Callable[[], None]:
    """The training loop of distillkit, as a run calls it."""
    student = build_student(geometry)
    loss = HardDistillation.build(HardDistillation.Options(), student.spec, student.spec)
    task = DistillationTask(
        student, {"hard": loss}, spec=student.spec, wanted=BOTH_HEADS, label_term=True, precision=geometry.precision
    ).train()
    recipe = Recipe.model_validate({"schedule": {"name": "constant"}, "optimizer": {"lr": LR}})
    optimisation = build_optimisation(task, recipe, steps=len(windows), steps_per_epoch=len(windows))
    teacher = build_teacher(student)
    stepper = Stepper(
        task,
        TeacherTargets({"t": TeacherSlot(teacher, teacher.spec, {Signal.LOGITS: ()})}, {"hard": LossSlot(loss, "t")}),
        optimisation,
        Objective({"hard": 0.5}, label_weight=0.5),
        StepSettings(len(windows), seed=0, clip=CLIP),
    )
    intervals = Intervals(len(windows) + 2, len(windows), log_every=log_every, evaluate_every=1, checkpoint_every=None)
    callbacks = Callbacks(lambda _record: None, lambda _step: {}, lambda _record: None, lambda _step: None)
    skipped_steps = SkippedSteps(20, on_skipped=print, give_up=print)

    def run() -> None:
        steps = train(stepper, skipped_steps, intervals, callbacks, start=1)
        next(steps)
        for window in windows:
            steps.send(window)

    return run


def minimal_loop(geometry: Geometry, windows: list[Window]) -> Callable[[], None]:
    """A hand-written loop for this one case."""
    student = build_student(geometry)
    teacher = build_teacher(student).model.network.eval()
    network = student.network.train()
    optimizer = create_optimizer_v2(network, opt="adamw", lr=LR, weight_decay=0.05, fused=True)
    parameters = list(network.parameters())
    batches: list[tuple[Tensor, Tensor]] = [
        (window.micro_batches[0].images, window.micro_batches[0].labels) for window in windows
    ]
    autocast = geometry.precision is not torch.float32

    def run() -> None:
        total = torch.zeros(())
        for images, labels in batches:
            with torch.no_grad():
                taught = teacher(images).argmax(dim=1)
            with torch.autocast("cpu", dtype=geometry.precision, enabled=autocast):
                features = network.forward_features(images)
                logits, distill_logits = network.head(features[:, 0]), network.head_dist(features[:, 1])
            loss = 0.5 * nn.functional.cross_entropy(logits.float(), labels)
            loss = loss + 0.5 * nn.functional.cross_entropy(distill_logits.float(), taught)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += loss.detach()
        total.item()

    return run


def measure(geometry: Geometry, *, rounds: int, steps: int) -> dict[str, object]:
    """Milliseconds per step of all loops, round by round, and the ratios to the minimal loop."""
    windows = build_windows(geometry, steps)
    builders: dict[str, Callable[[Geometry, list[Window]], Callable[[], None]]] = {
        "distillkit": partial(distillkit_loop, log_every=NEVER),
        "logging": partial(distillkit_loop, log_every=LOG_EVERY),
        "minimal": minimal_loop,
    }
    times: dict[str, list[float]] = {name: [] for name in builders}
    for build in range(BUILDS):
        names = list(builders) if build % 2 else list(reversed(builders))
        loops = {name: builders[name](geometry, windows) for name in names}
        for number in range(-1, rounds // BUILDS):
            for name in names if number % 2 else reversed(names):
                start = time.process_time()
                loops[name]()
                if number >= 0:  # the first round warms up
                    times[name].append(1000 * (time.process_time() - start) / steps)
    ratio, logging = (compare(times["minimal"], times[name]) for name in ("distillkit", "logging"))
    return {
        "geometry": geometry.name,
        "minimal_ms": statistics.median(times["minimal"]),
        "distillkit_ms": statistics.median(times["distillkit"]),
        "ratio": ratio.median,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "logging_ratio": logging.median,
        "rounds": ratio.rounds,
        "steps": steps,
    }


def main() -> None:
    """Measure every geometry and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as every run on a CPU does; it applies to the process, and so to both loops
    results = []
    print(f"torch {torch.__version__}, one thread, CPU time\n")
    print("| student | minimal loop, ms per step | distillkit, ms per step | median ratio | 95 % interval | with log |")
    print("| --- | ---: | ---: | ---: | --- | ---: |")
    for geometry in GEOMETRIES:
        result = measure(geometry, rounds=arguments.rounds, steps=arguments.steps)
        results.append(result)
        print(
            f"| {result['geometry']} | {result['minimal_ms']:.2f} | {result['distillkit_ms']:.2f} "
            f"| {result['ratio']:.4f} | {result['ratio_low']:.4f} to {result['ratio_high']:.4f} "
            f"| {result['logging_ratio']:.4f} |",
            flush=True,
        )
    if arguments.json:
        facts = {"machine": machine(), "threads": torch.get_num_threads(), "results": results}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
