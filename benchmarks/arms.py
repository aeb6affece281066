"""Shared code of the comparisons: run each arm with `distillkit` in its own process, and print the table of seeds."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

Figures = dict[str, float]

SMALL_VIT = ("image_size=32", "patch=4", "width=96", "depth=4", "heads=3")
"""The student's geometry, set in every arm: naming another student drops the geometry in the recipe."""


@dataclass(frozen=True)
class Arm:
    """One row of a table: a student, a loss as typed on the command line, and further settings."""

    name: str
    student: str
    loss: str
    settings: tuple[str, ...] = ()


def settings_of(arm: Arm, seed: int, precision: str) -> list[str]:
    """The settings of an arm: one seed, one thread, the small student, no images held out, and its own settings."""
    return [
        f"data.seed={seed}",
        "data.workers=0",
        "data.validation=0.0",
        "training.threads=1",
        f"training.precision={precision}",
        "training.evaluate_every=1000000",
        *(f"student.{setting}" for setting in SMALL_VIT),
        *arm.settings,
    ]


def distillkit(*typed: str, settings: Sequence[str] = ()) -> str:
    """Run a command line in a process with one thread, and return its output.

    Raises: SystemExit with the end of its messages if it fails.
    """
    command = [sys.executable, "-m", "distillkit_cli.main", *typed]
    command += [part for setting in settings for part in ("--set", setting)]
    # At this size unfused attention is twice as fast in bf16 on a CPU as fused attention.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TIMM_FUSED_ATTN": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nexit {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def result(out: Path) -> Figures:
    """The figures of a finished run."""
    figures: Figures = json.loads((out / "result.json").read_text(encoding="utf-8"))["figures"]
    return figures


def every_seed(
    run: Callable[[Arm, int], Figures], arms: Sequence[Arm], seeds: Sequence[int], jobs: int
) -> dict[str, list[Figures]]:
    """Run every arm with every seed, `jobs` at a time; the figures of each arm in the order of the seeds."""
    pairs = [(arm, seed) for seed in seeds for arm in arms]
    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(lambda pair: run(*pair), pairs))
    results: dict[str, list[Figures]] = {arm.name: [] for arm in arms}
    for (arm, _), figures in zip(pairs, found, strict=True):
        results[arm.name].append(figures)
    return results


def table(results: dict[str, list[Figures]], seeds: Sequence[int], key: str, more: Sequence[str] = ()) -> str:
    """One row per arm: the figure `key` of every seed, its mean and spread, and the means of the figures in `more`."""
    titles = ["arm", *(f"seed {seed}" for seed in seeds), "mean", "spread", *more]
    rows = [f"| {' | '.join(titles)} |", f"| --- |{' ---: |' * (len(titles) - 1)}"]
    for name, runs in results.items():
        values = [figures[key] for figures in runs]
        cells = [f"{value:.1f}" for value in values]
        cells += [f"{statistics.mean(values):.1f}", f"{max(values) - min(values):.1f}"]
        cells += [_mean(runs, other) for other in more]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _mean(runs: Sequence[Figures], key: str) -> str:
    return f"{statistics.mean(figures[key] for figures in runs):.1f}" if key in runs[0] else ""
