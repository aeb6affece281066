"""Few labels and many images, then all labels: a small ViT on real CIFAR-10, with and without a real teacher.

    python benchmarks/cifar10.py few --train DIR --test DIR --teacher-weights FILE [--out docs/benchmarks]
    python benchmarks/cifar10.py all --train DIR --test DIR --teacher-weights FILE [--epochs 60]

DIR are ImageFolder folders. Every arm runs through `distillkit run` in a process of its own, with the same optimiser
steps, for every seed; the student after the last step is reported, and the spread over seeds beside the mean.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from machine import machine

# Named for both students: choosing another student drops the geometry of the recipe's own.
GEOMETRY = ("image_size=32", "patch=4", "width=96", "depth=4", "heads=3")


@dataclass(frozen=True)
class Arm:
    """One line of the table: a student, a loss as typed, and what else is set."""

    name: str
    student: str
    loss: str
    settings: tuple[str, ...] = ()


FEW = (
    Arm("labels only", "vit-ti", "ce"),
    Arm("soft, one head, tau 2, teacher weight 0.9", "vit-ti", "soft:tau=2,lambda=0.9"),
    Arm("hard, one head, teacher weight 0.9", "vit-ti", "hard:weight=0.9", ("labels.weight=0.1",)),
    Arm("hard, token, teacher weight 0.9", "deit-ti", "hard:weight=0.9", ("labels.weight=0.1",)),
    Arm("hard, token, DeiT's 1/2 and 1/2", "deit-ti", "hard"),
)
ALL = (
    Arm("labels only", "vit-ti", "ce"),
    Arm("soft, one head, tau 2, teacher weight 0.9", "vit-ti", "soft:tau=2,lambda=0.9"),
    Arm("hard, one head, DeiT's 1/2 and 1/2", "vit-ti", "hard"),
    Arm("hard, token, DeiT's 1/2 and 1/2", "deit-ti", "hard"),
)


def command(arm: Arm, seed: int, out: Path, arguments: argparse.Namespace) -> list[str]:
    """What a user would type."""
    settings = [
        f"training.steps={arguments.steps}" if arguments.labels else f"training.epochs={arguments.epochs}",
        f"data.seed={seed}",
        "data.workers=0",
        "training.threads=1",
        f"training.precision={arguments.precision}",
        f"data.test={arguments.test}",
        "data.validation=0.0",
        "training.evaluate_every=1000000",
        *(f"student.{setting}" for setting in GEOMETRY),
        *arm.settings,
    ]
    typed = [sys.executable, "-m", "distillkit_cli.main", "run", "--recipe", "cifar10-few-labels"]
    typed += ["--data", str(arguments.train), "--student", arm.student, "--loss", arm.loss, "--seed", str(seed)]
    typed += ["--out", str(out)]
    if arm.loss != "ce":
        typed += ["--teacher", arguments.teacher, "--teacher-weights", str(arguments.teacher_weights)]
        typed += ["--set", f"teacher.precision={arguments.precision}"]
    # An empty value takes the recipe's own 500 labels away, so that every image keeps its label.
    settings.append(f"data.labels={arguments.labels or ''}")
    return typed + [part for setting in settings for part in ("--set", setting)]


def run_one(arm: Arm, seed: int, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Run one arm with one seed; the figures of the test images, in percent."""
    out = folder / f"{arm.student}-{arm.loss.replace(':', '-').replace('=', '')}-{len(arm.settings)}-{seed}"
    # At this size attention written out is twice as fast in bf16 on a CPU as the fused one.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TIMM_FUSED_ATTN": "0"}
    done = subprocess.run(
        command(arm, seed, out, arguments), env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{arm.name}, seed {seed}: exit {done.returncode}\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads((out / "result.json").read_text())["figures"]
    print(f"{arm.name}, seed {seed}: {figures['test/top1']:.2f}", file=sys.stderr, flush=True)
    return figures


def table(arms: Sequence[Arm], results: dict[str, list[dict[str, float]]], seeds: Sequence[int]) -> str:
    """The answer of the student per seed, mean and spread, and the two heads where there are two."""
    rows = [
        f"| arm | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | spread | class head | distillation head |",
        f"| --- |{' ---: |' * (len(seeds) + 4)}",
    ]
    for arm in arms:
        answers = [figures["test/top1"] for figures in results[arm.name]]
        heads = [
            f"{statistics.mean(figures[key] for figures in results[arm.name]):.1f}"
            if key in results[arm.name][0]
            else ""
            for key in ("test/class_top1", "test/distill_top1")
        ]
        cells = [f"{answer:.1f}" for answer in answers]
        cells += [f"{statistics.mean(answers):.1f}", f"{max(answers) - min(answers):.1f}", *heads]
        rows.append(f"| {arm.name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Run every arm with every seed, print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("few", "all"))
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--teacher", default="cifar-resnet20")
    parser.add_argument("--teacher-weights", type=Path, required=True)
    parser.add_argument("--labels", type=int, default=500, help="labels that are kept, for `few`")
    parser.add_argument("--steps", type=int, default=780, help="optimiser steps of every arm, for `few`")
    parser.add_argument("--epochs", type=int, default=60, help="passes over all images, for `all`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--out", type=Path, help="folder for the JSON figures")
    arguments = parser.parse_args()
    arms = FEW if arguments.case == "few" else ALL
    if arguments.case == "all":
        arguments.labels = None
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(arguments.jobs) as pool:
        pairs = [(arm, seed) for seed in arguments.seeds for arm in arms]
        figures = list(pool.map(lambda pair: run_one(*pair, Path(name), arguments), pairs))
    results: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in arms}
    for (arm, _), found in zip(pairs, figures, strict=True):
        results[arm.name].append(found)
    print(table(arms, results, arguments.seeds))
    if arguments.out:
        facts = {
            "case": arguments.case,
            "labels": arguments.labels,
            "length": f"{arguments.steps} steps" if arguments.labels else f"{arguments.epochs} epochs",
            "teacher": arguments.teacher,
            "precision": arguments.precision,
            "machine": machine(),
            "seeds": arguments.seeds,
            "results": results,
        }
        path = arguments.out / f"cifar10-{arguments.case}.json"
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
