"""ADViT and AttnDistill on real CIFAR-10: attention distillation from a ViT to a smaller one, against baselines.

    python benchmarks/attention_cifar10.py labels --teacher DIR --data DIR [--out docs/benchmarks]
    python benchmarks/attention_cifar10.py free   --teacher DIR --data DIR [--out docs/benchmarks]

The teacher is a run of `distillkit finetune` (its command is on the page of results), the data a folder with train/ and
test/. `labels` compares losses in addition to the label loss by top-1; `free` compares students trained without labels
by k-NN and a linear probe, with a student of random weights and the teacher as bounds. Every arm runs with `distillkit`
in its own process, with the same number of optimiser steps, for every seed; the student after the last step is
evaluated on the test images.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from arms import Arm, Figures, distillkit, every_seed, result, settings_of, table
from machine import machine

LABELS = (
    Arm("labels only", "vit-ti", "ce"),
    Arm("hard, one head", "vit-ti", "hard"),
    Arm("advit-kl, as the paper writes it", "vit-ti", "advit-kl"),
    Arm("advit-kl, direct", "vit-ti", "advit-kl:form=direct"),
    Arm("advit-l1", "vit-ti", "advit-l1"),
    Arm("advit-l2", "vit-ti", "advit-l2"),
)
FREE = (
    # One step with a learning rate that changes no weight: the student as initialised.
    Arm("random weights", "vit-ti", "attndistill", ("training.steps=1", "optimizer.lr=1e-30")),
    Arm("attndistill, alignment alone", "vit-ti", "attndistill:attention_weight=0"),
    Arm("attndistill", "vit-ti", "attndistill"),
)
K = 20


def judged(target: Path, data: Path) -> Figures:
    """k-NN (k = 20) and linear accuracy of a run's features on the test images, in percent.

    A tenth of the training images is held out to choose the learning rate of the probe.
    """
    figures: Figures = {}
    for protocol, options in (("knn", ["--k", str(K)]), ("linear", [])):
        typed = ["evaluate", str(target), "--protocol", protocol, "--data", str(data), "--json", *options]
        found = json.loads(distillkit(*typed))["figures"]
        figures |= {f"{protocol}/{name}": value for name, value in found.items()}
    return figures


def run_one(arm: Arm, seed: int, folder: Path, arguments: argparse.Namespace) -> Figures:
    """Run one arm with one seed; the figures of the test images, in percent."""
    out = folder / f"{arm.name.replace(' ', '-')}-{seed}"
    typed = ["run", "--recipe", "cifar10-few-labels", "--data", str(arguments.data), "--out", str(out)]
    typed += ["--student", arm.student, "--loss", arm.loss, "--seed", str(seed)]
    settings = [
        f"training.steps={arguments.steps}",
        "data.labels=",
        *settings_of(arm, seed, arguments.precision),
    ]
    if arm.loss != "ce":
        typed += ["--teacher", f"run:{arguments.teacher}"]
        settings.append(f"teacher.precision={arguments.precision}")
    distillkit(*typed, settings=settings)
    figures = result(out) if arguments.case == "labels" else judged(out, arguments.data)
    shown = ", ".join(f"{name} {value:.2f}" for name, value in figures.items() if "top1" in name)
    print(f"{arm.name}, seed {seed}: {shown}", file=sys.stderr, flush=True)
    return figures


def main() -> None:
    """Run every arm with every seed, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("labels", "free"))
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=780, help="optimiser steps of every arm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--out", type=Path, help="folder for the JSON figures")
    arguments = parser.parse_args()
    labels = arguments.case == "labels"
    with tempfile.TemporaryDirectory() as name:
        results = every_seed(
            lambda arm, seed: run_one(arm, seed, Path(name), arguments),
            LABELS if labels else FREE,
            arguments.seeds,
            arguments.jobs,
        )
    teacher = result(arguments.teacher) if labels else judged(arguments.teacher, arguments.data)
    shown = ("test/top1",) if labels else (f"knn/k{K}_top1", "linear/top1")
    for key in shown:
        print(f"\n{key}; the teacher: {teacher[key]:.2f}\n\n{table(results, arguments.seeds, key)}")
    if arguments.out:
        facts = {
            "case": arguments.case,
            "steps": arguments.steps,
            "precision": arguments.precision,
            "machine": machine(),
            "seeds": arguments.seeds,
            "teacher": teacher,
            "results": results,
        }
        path = arguments.out / f"attention-cifar10-{arguments.case}.json"
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
