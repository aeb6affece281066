"""The tables of docs/benchmarks/README.md on `features`, from the results of benchmarks/features_cifar10.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "features-cifar10.json"
FIGURES = {"knn/k20_top1": "k-NN", "linear/top1": "linear", "few-label/1%_top1": "1 %", "few-label/10%_top1": "10 %"}
ABLATED, DEFAULT = "small-cnn", "features layernorm smooth-l1"
SEED = "0"
Runs = Mapping[str, Mapping[str, Any]]
BySeed = Mapping[str, Runs]


def page() -> str:
    """All arms, then every normalisation with every distance, then those with several seeds; what has run of them."""
    runs: Runs = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"]
    cells = _ablated(runs)
    parts = ["Every student, top-1 in percent: mean over the seeds, and in brackets the highest minus the lowest."]
    parts.append(arms(runs))
    if len(cells) > 1:
        parts.append(f"Every normalisation with every distance, seed {SEED}; *all* is the mean of the four figures.")
        parts.append(ablation(cells))
    if any(len(found) > 1 for name, found in cells.items() if name != DEFAULT):
        parts += ["The combinations with more than one seed, as in the first table:", repeated(cells)]
    return "\n\n".join(parts)


def arms(runs: Runs) -> str:
    """The main table: mean and spread of each student and arm; the teacher first."""
    rows = [["teacher", "", "1", *(_shown([runs["teacher"]["figures"][figure]]) for figure in FIGURES), ""]]
    rows += [
        [student, arm, *_cells(found), f"{mean(each['cpu_s'] for each in found.values()):.0f}"]
        for (student, arm), found in _by_arm(runs).items()
        if not arm.startswith("features ")
    ]
    return _table(["student", "arm", "seeds", *FIGURES.values(), "CPU s"], rows, words=2)


def ablation(cells: BySeed) -> str:
    """One row per normalisation and distance, with one seed."""
    rows = []
    for name, found in cells.items():
        if SEED in found:
            values = [found[SEED]["figures"][figure] for figure in FIGURES]
            _, normalisation, distance = name.split(" ")
            cells = (*values, mean(values))
            rows.append([f"`{normalisation}`", f"`{distance}`", *(f"{value:.1f}" for value in cells)])
    return _table(["normalise", "distance", *FIGURES.values(), "all"], rows, words=2)


def repeated(cells: BySeed) -> str:
    """Mean and spread of the combinations that have several seeds."""
    rows = [
        [*(f"`{word}`" for word in name.split(" ")[1:]), *_cells(found)]
        for name, found in cells.items()
        if len(found) > 1
    ]
    return _table(["normalise", "distance", "seeds", *FIGURES.values()], rows, words=2)


def _by_arm(runs: Runs) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    """The runs by student and arm, then by seed, in the order of the file."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for name, run in runs.items():
        if name != "teacher":
            student, arm, seed = name.split(", ")
            found.setdefault((student, arm), {})[seed] = run
    return found


def _ablated(runs: Runs) -> BySeed:
    """The runs of `features` by normalisation and distance, then by seed. The default combination is an arm."""
    by_arm = _by_arm(runs)
    default = {DEFAULT: by_arm[ABLATED, "features"]}
    return default | {arm: found for (_, arm), found in by_arm.items() if arm.startswith("features ")}


def _cells(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The number of seeds, and mean and spread of every figure."""
    yield str(len(found))
    yield from (_shown([run["figures"][figure] for run in found.values()]) for figure in FIGURES)


def _shown(values: Sequence[float]) -> str:
    """Mean and spread: "45.6 (1.2)"; one value alone."""
    return f"{mean(values):.1f}" + (f" ({max(values) - min(values):.1f})" if len(values) > 1 else "")


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> str:
    """A table whose first `words` columns are text, and the others numbers."""
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * words}{' ---: |' * (len(titles) - words)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
