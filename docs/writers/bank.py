"""The tables of docs/benchmarks/README.md on target banks, from the results of two programs in benchmarks/."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SWEEP, VIEWS = BENCHMARKS / "bank-sweep.json", BENCHMARKS / "bank-views.json"
RESULTS = ("figures", "losses", "weights")
Run = Mapping[str, Any]


def page() -> str:
    """The sweep with and without a bank, then the accuracy for each number of views."""
    return f"### A sweep with one bank\n\n{sweep()}\n\n### How many views are enough\n\n{views()}"


def sweep() -> str:
    """The cost of every student and loss, and in how many pairs all results are equal."""
    runs = json.loads(SWEEP.read_text(encoding="utf-8"))["runs"]
    pairs: dict[str, list[tuple[Run, Run]]] = {}
    for name, live in runs.items():
        arm, _, kind = name.rpartition(" ")
        if kind == "live" and f"{arm} bank" in runs:
            pairs.setdefault(arm.rpartition(" ")[0], []).append((live, runs[f"{arm} bank"]))
    every = [pair for found in pairs.values() for pair in found]
    equal = sum(all(live[key] == bank[key] for key in RESULTS) for live, bank in every)
    arms = sorted(pairs, key=lambda arm: arm.split(" ", 1)[0], reverse=True)  # losses in the order of the runs
    rows = [_cost(*arm.split(" ", 1), pairs[arm]) for arm in arms]
    titles = ("student", "loss", "seeds", "CPU s without", "CPU s with", "ratio", "targets read", "computed")
    return (
        f"{_table(titles, [*rows, _cost('all', '', every)], words=2)}\n\n"
        f"In {equal} of {len(every)} pairs all results are bit-equal: every weight, loss and figure."
    )


def views() -> str:
    """Top-1 of every seed by number of views, with and without mixing, then the precision of the runs.

    A seed is left out with or without mixing where not all numbers of views have it there.
    """
    runs = json.loads(VIEWS.read_text(encoding="utf-8"))["runs"]
    arms: dict[str, dict[str, Run]] = {}
    for name, run in runs.items():
        arm, _, seed = name.rpartition(", ")
        arms.setdefault(arm, {})[seed] = run
    complete = {
        mixing: set.intersection(*(set(found) for arm, found in arms.items() if _mixing(arm) == mixing))
        for mixing in {_mixing(arm) for arm in arms}
    }
    seeds = sorted(set.union(*complete.values()))
    rows = [
        _accuracies(
            arm, [found[seed]["figures"]["test/top1"] if seed in complete[_mixing(arm)] else None for seed in seeds]
        )
        for arm, found in sorted(arms.items(), key=_place)
    ]
    titles = ("views", "mixing", *(f"seed {seed}" for seed in seeds), "mean", "spread")
    return f"{_table(titles, rows, words=2)}\n\n{_precisions(seeds, arms.values())}"


def _precisions(seeds: Sequence[str], arms: Iterable[Mapping[str, Run]]) -> str:
    """In which precision teacher and student computed."""
    used = {seed: {found[seed]["precision"] for found in arms if seed in found} for seed in seeds}
    names = [f"{' and '.join(sorted(precisions))} for seed {seed}" for seed, precisions in used.items()]
    return f"Precision of teacher and student: {', '.join(names)}."


def _mixing(arm: str) -> str:
    return arm.partition(", ")[2]


def _place(arm: tuple[str, object]) -> tuple[bool, float]:
    """Arms without mixing first, then by the number of views."""
    views = arm[0].partition(", ")[0]
    return _mixing(arm[0]) == "with mixing", float("inf") if views == "fresh" else int(views.removeprefix("K = "))


def _cost(student: str, loss: str, pairs: Sequence[tuple[Run, Run]]) -> Iterator[str]:
    live, bank = (sum(pair[side]["cpu_s"] for pair in pairs) for side in (0, 1))
    uses = [use for _, run in pairs for use in run["bank"].values()]
    yield from (student, f"`{loss}`" if loss else "", str(len(pairs)))
    yield from (f"{live:.1f}", f"{bank:.1f}", f"{bank / live:.2f}")
    yield from (f"{sum(use[key] for use in uses):,}" for key in ("read", "computed"))


def _accuracies(arm: str, values: Sequence[float | None]) -> Iterator[str]:
    """The cells of a row; a value that is None is left out."""
    there = [value for value in values if value is not None]
    yield from arm.replace(" mixing", "").split(", ")
    yield from ("" if value is None else f"{value:.1f}" for value in values)
    yield from (f"{mean(there):.1f}", f"{max(there) - min(there):.1f}")


def _table(titles: Sequence[str], rows: Sequence[Iterator[str]], *, words: int) -> str:
    """A table whose first `words` columns are text, and the others numbers."""
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * words}{' ---: |' * (len(titles) - words)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
