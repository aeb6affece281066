"""Few labels and many images, then all labels: a small ViT on real CIFAR-10, with and without a real teacher.

    python benchmarks/cifar10.py few --train DIR --test DIR --teacher-weights FILE [--out docs/benchmarks]
    python benchmarks/cifar10.py all --train DIR --test DIR --teacher-weights FILE [--epochs 60]

DIR are ImageFolder folders. Every arm runs with `distillkit run` in its own process, with the same number of optimiser
steps, for every seed. The table reports the student after the last step, with the mean and spread over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from arms import Arm, Figures, distillkit, every_seed, result, settings_of, table
from machine import machine

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


def run_one(arm: Arm, seed: int, folder: Path, arguments: argparse.Namespace) -> Figures:
    """Run one arm with one seed; the figures of the test images, in percent."""
    out = folder / f"{arm.student}-{arm.loss.replace(':', '-').replace('=', '')}-{len(arm.settings)}-{seed}"
    typed = ["run", "--recipe", "cifar10-few-labels", "--data", str(arguments.train), "--out", str(out)]
    typed += ["--student", arm.student, "--loss", arm.loss, "--seed", str(seed)]
    settings = [
        f"training.steps={arguments.steps}" if arguments.labels else f"training.epochs={arguments.epochs}",
        f"data.test={arguments.test}",
        # An empty value resets the recipe's 500 labels, so that every image keeps its label.
        f"data.labels={arguments.labels or ''}",
        *settings_of(arm, seed, arguments.precision),
    ]
    if arm.loss != "ce":
        typed += ["--teacher", arguments.teacher, "--teacher-weights", str(arguments.teacher_weights)]
        settings.append(f"teacher.precision={arguments.precision}")
    distillkit(*typed, settings=settings)
    figures = result(out)
    print(f"{arm.name}, seed {seed}: {figures['test/top1']:.2f}", file=sys.stderr, flush=True)
    return figures


def main() -> None:
    """Run every arm with every seed, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("few", "all"))
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--teacher", default="cifar-resnet20")
    parser.add_argument("--teacher-weights", type=Path, required=True)
    parser.add_argument("--labels", type=int, default=500, help="number of labels to keep, for `few`")
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
    with tempfile.TemporaryDirectory() as name:
        results = every_seed(
            lambda arm, seed: run_one(arm, seed, Path(name), arguments), arms, arguments.seeds, arguments.jobs
        )
    print(table(results, arguments.seeds, "test/top1", more=("test/class_top1", "test/distill_top1")))
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
