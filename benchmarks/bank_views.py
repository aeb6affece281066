"""How many augmented views are enough? Accuracy with data.views = 1, 4, 16, 50 and with fresh views, at equal steps.

    python benchmarks/bank_views.py --train DIR --test DIR --teacher-weights FILE --bank DIR --out FILE

DIR are ImageFolder folders; the first 50 images of each class are trained on. Every arm takes the same number of steps,
with and without mixing, for every seed. All runs use one bank: an arm with few views reads what others have stored.
After each run its result is added to the file of --out, with the precision of the run; the same command continues
trials that were stopped. docs/generate.py makes the table in docs/benchmarks/README.md from that file.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cpu_run import ONE_THREAD
from kept_runs import KeptRuns

TEACHER, EPOCHS, BATCH, IMAGES_PER_CLASS = "cifar-resnet56", 60, 50, 50
STUDENT = {"model": "small-cnn", "image_size": 32, "width": 16}
LOSS = {"loss": "soft", "tau": 2, "lambda": 0.9}
VIEWS = (1, 4, 16, 50, None)
MIXING = {"without mixing": {"mixup": 0.0, "cutmix": 0.0}, "with mixing": {"mixup": 0.8, "cutmix": 1.0}}
SEEDS = (0, 1, 2)


def first_images(train: Path, folder: Path) -> Path:
    """A copy of the first images of each class, by name."""
    for each in sorted(path for path in train.iterdir() if path.is_dir()):
        target = folder / each.name
        target.mkdir(parents=True)
        for image in sorted(each.iterdir())[:IMAGES_PER_CLASS]:
            shutil.copyfile(image, target / image.name)
    return folder


def options_of(views: int | None, mixing: str, seed: int, train: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of one run."""
    return {
        **ONE_THREAD,
        "data": str(train),
        "bank": str(arguments.bank),
        "student": STUDENT,
        "teacher": TEACHER,
        "teacher_weights": str(arguments.teacher_weights),
        "teacher.precision": arguments.precision,
        "loss": LOSS,
        "seed": seed,
        "mixing": MIXING[mixing],
        "data.views": views,
        "data.test": str(arguments.test),
        "training.epochs": EPOCHS,
        "training.batch_size": BATCH,
        "training.precision": arguments.precision,
    }


def name_of(views: int | None) -> str:
    """The name of a number of views: "K = 4"."""
    return "fresh" if views is None else f"K = {views}"


def main() -> None:
    """Run the trials, or what is missing of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--teacher-weights", type=Path, required=True)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file with the results")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of teacher and student")
    parser.add_argument("--before", default="", help="a command that starts each run, such as `nice -n 10`")
    arguments = parser.parse_args()
    facts = {"teacher": TEACHER, "epochs": EPOCHS, "batch": BATCH, "images_per_class": IMAGES_PER_CLASS}
    facts |= {"student": STUDENT, "loss": LOSS, "mixing": MIXING}
    kept = KeptRuns(arguments.out, facts, arguments.before)
    with tempfile.TemporaryDirectory() as folder:
        train = first_images(arguments.train, Path(folder, "train"))
        for seed in SEEDS:
            for mixing in MIXING:
                # Fresh views first: they are those that the other arms read.
                for views in reversed(VIEWS):
                    kept.run(f"{name_of(views)}, {mixing}, {seed}", options_of(views, mixing, seed, train, arguments))


if __name__ == "__main__":
    main()
