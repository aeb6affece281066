"""A distillation step of this checkout and of an earlier one, in interleaved rounds: how much faster it became.

Each checkout has a process of its own, which imports distillkit from that folder, builds the same models with random
weights and gets the same batches; no environment is needed but this one. By default a ViT-B/16 teaches a ViT-Ti with
`advit-l1`. The ratio is computed round by round.

    git worktree add ../before REVISION
    python benchmarks/before_after.py --before ../before [--rounds 10] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
PACKAGES = ("", "cli", "export", "plugins")
WINDOWS = 2


def worker(options: dict[str, Any]) -> None:
    """Build the session, then measure one round for every line of stdin: seconds for all batches, as a line of stdout.

    Uses only names that the earlier checkout has, too.
    """
    import torch

    from distillkit.planning.make_plan import make_plan
    from distillkit.plugin.registry import installed_plugins
    from distillkit.recipe.schema import Recipe
    from distillkit.running.session import build_session

    torch.set_num_threads(options["threads"])
    size = {} if options["image_size"] is None else {"image_size": options["image_size"]}
    teacher = {"model": options["teacher"], "name": "teacher", "weights": "none"} | options["teacher_keys"]
    recipe = Recipe.model_validate(
        {
            "data": {"train": options["images"], "validation": 0.0, "workers": 0},
            "teachers": [teacher | {"precision": options["precision"]}],
            "student": {"model": options["student"]} | size,
            "losses": [{"loss": options["loss"]}],
            "training": {
                "batch_size": options["batch"],
                "precision": options["precision"],
                "device": "cpu",
                "epochs": 1000,
            },
            "schedule": {"name": "constant"},
            "trackers": [],
        }
    )
    session = build_session(make_plan(recipe, installed_plugins()))
    windows = tuple(session.data.windows(0, WINDOWS))
    forms = {name: str(settled.form) for name, settled in getattr(session, "forms", {}).items()}
    print(json.dumps(forms), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for window in windows:
            session.stepper.step(window)
        print(time.perf_counter() - start, flush=True)


class Checkout:
    """The process of a checkout."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        path = os.pathsep.join(str(folder / package) for package in PACKAGES)
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(options["threads"])}
        command = [sys.executable, "-P", __file__, "--worker", json.dumps(options)]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.forms: dict[str, str] = json.loads(self._line())
        self.rounds_s: list[float] = []

    def round(self) -> float:
        """Seconds of one round."""
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended; its error is above")
        return line


def main() -> None:
    """Measure both checkouts and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, metavar="DIR", help="a checkout of an earlier commit")
    parser.add_argument("--teacher", default="vit-b")
    parser.add_argument("--student", default="vit-ti")
    parser.add_argument("--loss", default="advit-l1")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--form", help="teacher.form of this checkout; default: its rule")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(json.loads(arguments.worker))
        return
    if arguments.before is None or not (arguments.before / "distillkit").is_dir():
        parser.error("--before needs the folder of a checkout")
    names = ("teacher", "student", "loss", "batch", "image_size", "precision", "threads")
    options = {name: getattr(arguments, name) for name in names}
    form = {} if arguments.form is None else {"form": arguments.form}
    with tempfile.TemporaryDirectory() as folder:
        save_images(Path(folder), WINDOWS * arguments.batch)
        common = options | {"images": folder}
        checkouts = {
            "before": Checkout(arguments.before.resolve(), common | {"teacher_keys": {}}),
            "now": Checkout(HERE, common | {"teacher_keys": form}),
        }
        for number in range(-1, arguments.rounds):  # the first round warms up
            for name in list(checkouts) if number % 2 else reversed(checkouts):
                seconds = checkouts[name].round()
                if number >= 0:
                    checkouts[name].rounds_s.append(seconds)
    report(arguments, options, checkouts)


def save_images(folder: Path, count: int) -> None:
    """Write generated images, in two class folders."""
    from distillkit.benchmark.generated_images import GeneratedImages

    images = GeneratedImages(count, 2)
    for number in range(count):
        file = folder / str(images.label(number)) / images.key(number)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(images.file(number).read())


def revision(folder: Path) -> str:
    """The commit of a checkout, shortened."""
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def report(arguments: argparse.Namespace, options: dict[str, Any], checkouts: dict[str, Checkout]) -> None:
    """Print the medians and the ratio, and write them as JSON if a file is given."""
    from machine import machine

    from distillkit.compute.paired_ratio import compare

    images = WINDOWS * arguments.batch
    ratio = compare(checkouts["now"].rounds_s, checkouts["before"].rounds_s)
    for name, checkout in checkouts.items():
        shown = ", ".join(checkout.forms.values()) or "plain"
        print(f"{name}: {1000 * statistics.median(checkout.rounds_s) / images:.3g} ms an image (teacher: {shown})")
    print(f"speed-up {ratio}, {ratio.rounds} rounds")
    if arguments.json is not None:
        found = {
            "machine": machine(),
            **options,
            "before": revision(arguments.before),
            "teacher_form": checkouts["now"].forms,
            "rounds_s": {name: checkout.rounds_s for name, checkout in checkouts.items()},
            "speed_up": {"median": ratio.median, "low": ratio.low, "high": ratio.high, "rounds": ratio.rounds},
        }
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
