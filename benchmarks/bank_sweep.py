"""A sweep by hand on CIFAR-10, with one target bank and without: 3 seeds x 3 losses x 2 students, one ResNet-56.

    python benchmarks/bank_sweep.py --train DIR --test DIR --teacher-weights FILE --bank DIR --out FILE

DIR are ImageFolder folders; the bank must be empty at the start. Every run is a process of its own with one thread.
Runs without and with the bank alternate. After each run its result is added to the file of --out; the same command
continues a sweep that was stopped. docs/generate.py makes the tables in docs/benchmarks/README.md from that file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cpu_run import ONE_THREAD
from kept_runs import KeptRuns

TEACHER, EPOCHS, BATCH = "cifar-resnet56", 1, 32
STUDENTS = {
    "vit-ti": {"image_size": 32, "patch": 4, "width": 96, "depth": 4, "heads": 3},
    "small-cnn": {"image_size": 32, "width": 16},
}
LOSSES = ("hard", "soft:tau=2", "soft:tau=4")
SEEDS = (0, 1, 2)


def options_of(student: str, loss: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a run without a bank."""
    return {
        **ONE_THREAD,
        "data": str(arguments.train),
        "student": {"model": student, **STUDENTS[student]},
        "teacher": TEACHER,
        "teacher_weights": str(arguments.teacher_weights),
        "teacher.precision": "bf16",
        "loss": loss,
        "seed": seed,
        "data.test": str(arguments.test),
        "training.epochs": EPOCHS,
        "training.batch_size": BATCH,
        "training.precision": "bf16",
    }


def main() -> None:
    """Run the sweep, or what is missing of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--teacher-weights", type=Path, required=True)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file with the results")
    parser.add_argument("--before", default="", help="a command that starts each run, such as `nice -n 10`")
    arguments = parser.parse_args()
    facts = {"teacher": TEACHER, "epochs": EPOCHS, "batch": BATCH, "students": STUDENTS, "precision": "bf16"}
    kept = KeptRuns(arguments.out, facts, arguments.before)
    for seed in SEEDS:
        for loss in LOSSES:
            for student in STUDENTS:
                options = options_of(student, loss, seed, arguments)
                kept.run(f"{student} {loss} {seed} live", options)
                kept.run(f"{student} {loss} {seed} bank", options | {"bank": str(arguments.bank)})


if __name__ == "__main__":
    main()
