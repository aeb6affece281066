"""Three students in one pass against the same three in turn: CIFAR-10 with a ResNet-56, live and with a filled bank.

    python benchmarks/one_pass.py --train DIR --teacher-weights FILE [--rounds 6] [--steps 16] [--json FILE]

DIR is an ImageFolder. All runs are in one process with one thread, in float32, and their order changes from round to
round. `steps` is the time from the first optimiser step to the last one, in which a long run spends its time; `calls`
is that of the whole calls, with planning, building and the first step. Both are measured as time that passed, and as
CPU time, which other programs on the machine disturb less. The ratio is computed round by round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpu_run import ONE_THREAD
from machine import machine

import distillkit
from distillkit.compute.paired_ratio import compare

VIT = {"model": "vit-ti", "image_size": 32, "patch": 4, "width": 96, "depth": 4, "heads": 3}
CNN = {"model": "small-cnn", "image_size": 32, "width": 16}
STUDENTS = ((VIT, "soft:tau=2"), (CNN, "soft:tau=4"), (VIT, "hard"))
TEACHER, BATCH = "cifar-resnet56", 64


CLOCKS = {"passed": time.perf_counter, "CPU": time.process_time}


def now() -> dict[str, float]:
    """Seconds on each clock."""
    return {name: clock() for name, clock in CLOCKS.items()}


def between(what: str, start: dict[str, float], end: dict[str, float]) -> dict[str, float]:
    """Seconds on each clock."""
    return {f"{what}, {name}": end[name] - start[name] for name in CLOCKS}


class Clock:
    """An observer that notes when the first and the last step of each run are logged."""

    def __init__(self) -> None:
        self.times: list[dict[str, float]] = []

    def distillkit_steps_logged(self) -> None:
        self.times.append(now())


def recipes_of(arguments: argparse.Namespace, bank: Path | None) -> list[distillkit.Recipe]:
    """The recipes of the three students."""
    shared: dict[str, Any] = {
        **ONE_THREAD,
        "data": str(arguments.train),
        "teacher": TEACHER,
        "teacher_weights": str(arguments.teacher_weights),
        "teacher.precision": "fp32",
        "bank": None if bank is None else str(bank),
        "data.views": 1,
        "training.steps": arguments.steps,
        "training.epochs": None,
        "training.batch_size": BATCH,
        "training.log_every": arguments.steps,
        "training.precision": "fp32",
        "trackers": [],
    }
    return [
        distillkit.load_recipe(student=student, loss=loss, seed=seed, **shared)
        for seed, (student, loss) in enumerate(STUDENTS)
    ]


def together(recipes: Sequence[distillkit.Recipe], folder: Path) -> dict[str, float]:
    """Seconds of the three in one pass."""
    clock, outs, start = Clock(), [folder / str(number) for number in range(len(recipes))], now()
    for outcome in distillkit.run_together(recipes, outs, observers=[clock]):
        if isinstance(outcome, Exception):
            raise outcome
    # From when the last of them has taken its first step.
    return between("steps", clock.times[len(recipes) - 1], clock.times[-1]) | between("calls", start, now())


def in_turn(recipes: Sequence[distillkit.Recipe], folder: Path) -> dict[str, float]:
    """Seconds of the three one after the other."""
    start, steps = now(), []
    for number, recipe in enumerate(recipes):
        clock = Clock()
        distillkit.run(recipe, folder / str(number), observers=[clock])
        steps.append(between("steps", clock.times[0], clock.times[-1]))
    return {name: sum(each[name] for each in steps) for name in steps[0]} | between("calls", start, now())


def main() -> None:
    """Measure all rounds, print the ratios, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--teacher-weights", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipes = {"live": recipes_of(arguments, None), "bank": recipes_of(arguments, folder / "bank")}
        together(recipes["bank"], folder / "filling")
        found: dict[str, dict[str, list[dict[str, float]]]] = {
            kind: {"together": [], "in turn": []} for kind in recipes
        }
        arms = [(kind, way) for kind in recipes for way in (together, in_turn)]
        for number in range(arguments.rounds):
            for kind, way in arms if number % 2 else reversed(arms):
                seconds = way(recipes[kind], folder / f"{number}-{kind}-{way.__name__}")
                found[kind]["together" if way is together else "in turn"].append(seconds)
    facts: dict[str, Any] = {"machine": machine(), "teacher": TEACHER, "students": STUDENTS, "batch": BATCH}
    facts |= {"steps": arguments.steps, "precision": "fp32", "seconds": found, "ratios": {}}
    for kind, ways in found.items():
        for what in ways["together"][0]:
            own, baseline = ([each[what] for each in ways[way]] for way in ("together", "in turn"))
            ratio = compare(own, baseline)
            facts["ratios"][f"{kind}, {what}"] = vars(ratio)
            medians = f"{statistics.median(own):.1f} s together, {statistics.median(baseline):.1f} s in turn"
            print(f"{kind}, {what}: {medians}; in turn takes {ratio} times as long")
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
