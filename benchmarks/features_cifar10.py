"""`features` on real CIFAR-10: a ViT into a small CNN and a small ViT without labels, against three baselines.

    python benchmarks/features_cifar10.py --data DIR --teacher RUN --bank DIR --out FILE [--teacher-data DIR ...]

The folder of --data has train/ and test/; every student is trained and judged on it. RUN is the teacher, a hybrid ViT.
If there is no such directory, it is trained first: on the images of --teacher-data (an ImageFolder), from the weights
of --resnet20, see hybrid_vit.py. The students are judged by k-NN, linear probe, 1 % and 10 % of the labels. First come
all arms with one seed, then every normalisation with every distance, then the other seeds, also of the two best
combinations. All runs read the teacher's targets from one bank. They share this process, since importing torch and timm
costs as much as a quarter of a run. After each run its result is added to the file of --out; the same command
continues. docs/generate.py makes the tables in docs/benchmarks/README.md from that file.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import hybrid_vit
from cpu_run import ONE_THREAD, trained
from kept_runs import KeptRuns
from three_protocols import FIGURES, judged

TEACHER = {"model": f"timm:{hybrid_vit.NAME}", "image_size": 32}
TEACHER_TRAINING = {"loss": "ce", "optimizer.lr": 5e-4, "training.steps": 160, "training.batch_size": 50}
STUDENTS = {
    "small-cnn": {"model": "small-cnn", "image_size": 32, "width": 16},
    "vit-ti": {"model": "vit-ti", "image_size": 32, "patch": 4, "width": 64, "depth": 4, "heads": 4},
}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    # One step with a learning rate that changes no weight: the student as initialised.
    "random": ("ce", {"training.steps": 1, "optimizer.lr": 1e-30}),
    "supervised": ("ce", {}),
    "features": ("features", {}),
    # A CNN has no class token, so no attention row of it.
    "attndistill": ("attndistill", {}),
}
NORMALISATIONS = ("layernorm", "standardise", "phi-s", "l2", "none")
DISTANCES = ("smooth-l1", "cosine", "mse")
DEFAULT = ("layernorm", "smooth-l1")
ABLATED = "small-cnn"
STATISTICS_IMAGES = 512
"""A quarter of the default: the teacher has 96 channels, and answers these images without a bank."""
EPOCHS, BATCH, VIEWS, SEEDS = 4, 32, 4, (0, 1, 2)
ALWAYS = {
    **ONE_THREAD,
    "training.batch_size": BATCH,
    "training.precision": "fp32",
    "training.evaluate_every": 1_000_000,
    "training.log_every": 100,
    "trackers": ("metrics",),
}


def train_teacher(arguments: argparse.Namespace) -> None:
    """Train the hybrid ViT on labels, from the convolutions of a ResNet-20."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "initial.safetensors")
        hybrid_vit.save_initial_weights(arguments.resnet20, weights)
        options = {"data": str(arguments.teacher_data), "student": TEACHER, "student_weights": str(weights)}
        trained({**ALWAYS, **TEACHER_TRAINING, **options}, arguments.teacher)


@dataclass(frozen=True)
class Comparison:
    """The runs of the comparison, each under its name: "vit-ti, features, 0" is student, arm and seed."""

    kept: KeptRuns
    arguments: argparse.Namespace

    def teacher(self) -> None:
        """Judge the teacher, and train it before if its directory does not exist."""
        if not self.arguments.teacher.exists():
            train_teacher(self.arguments)
        self.kept.keep("teacher", lambda: {"figures": judged(self.arguments.teacher, self.arguments.data)})

    def arms(self, seeds: Sequence[int]) -> None:
        """Run every arm with every student that has its signals."""
        for seed, student, arm in product(seeds, STUDENTS, ARMS):
            if arm != "attndistill" or student != "small-cnn":
                loss, more = ARMS[arm]
                self._run(
                    f"{student}, {arm}, {seed}", {"student": STUDENTS[student], "loss": loss, "seed": seed} | more
                )

    def cell(self, normalisation: str, distance: str, seed: int) -> float:
        """Run one combination of the ablation; the mean of its figures. The default is an arm and kept as such."""
        default = (normalisation, distance) == DEFAULT
        arm = "features" if default else f"features {normalisation} {distance}"
        loss: dict[str, Any] = {"loss": "features", "normalise": normalisation, "distance": distance}
        loss["statistics_images"] = STATISTICS_IMAGES
        options = {"student": STUDENTS[ABLATED], "loss": loss, "seed": seed}
        found = self._run(f"{ABLATED}, {arm}, {seed}", options)
        figures: dict[str, float] = found["figures"]
        return mean(figures[figure] for figure in FIGURES)

    def _run(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        return self.kept.keep(name, lambda: self._judged(options))

    def _judged(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Train a student and judge it: cost, figures and uses of the bank."""
        arguments = self.arguments
        complete = {**ALWAYS, "data": str(arguments.data / "train"), "data.views": VIEWS, **options}
        if "training.steps" not in options:
            complete["training.epochs"] = EPOCHS
        if options["loss"] != "ce":
            complete |= {
                "teacher": f"run:{arguments.teacher}",
                "teacher.precision": "fp32",
                "bank": str(arguments.bank),
            }
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "run")
            found = trained(complete, out)
            return found | {"figures": found["figures"] | judged(out, arguments.data)}


def main() -> None:
    """Run everything, or what is missing of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True, help="run directory of the teacher")
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file with the results")
    parser.add_argument("--teacher-data", type=Path, help="ImageFolder for training the teacher")
    parser.add_argument("--resnet20", type=Path, help="weights of a CIFAR ResNet-20 for training the teacher")
    arguments = parser.parse_args()
    facts = {"teacher": TEACHER | hybrid_vit.GEOMETRY, "teacher_training": TEACHER_TRAINING}
    facts |= {"students": STUDENTS, "epochs": EPOCHS, "batch": BATCH, "views": VIEWS, "precision": "fp32"}
    comparison = Comparison(KeptRuns(arguments.out, facts), arguments)
    comparison.teacher()
    first, *others = SEEDS
    comparison.arms([first])
    found = {cell: comparison.cell(*cell, first) for cell in product(NORMALISATIONS, DISTANCES)}
    comparison.arms(others)
    best = sorted(found, key=lambda cell: found[cell], reverse=True)[:2]
    for (normalisation, distance), seed in product(best, others):
        comparison.cell(normalisation, distance, seed)


if __name__ == "__main__":
    main()
