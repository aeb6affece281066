"""The tables of docs/sweep.md: a sweep and a search, as a whole and killed, from benchmarks/sweep_cifar10.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GRID, SEARCH = BENCHMARKS / "sweep-cifar10.json", BENCHMARKS / "search-digits.json"
Arm = Mapping[str, Any]


def page() -> str:
    """The sweep on CIFAR-10, then the search on digits."""
    grid, search = (json.loads(file.read_text(encoding="utf-8")) for file in (GRID, SEARCH))
    return f"### 3 losses x 3 seeds on CIFAR-10\n\n{_grid(grid)}\n\n### 12 trials on digits\n\n{_search(search)}"


def _grid(found: Mapping[str, Any]) -> str:
    arms = found["whole"]["arms"]
    losses = dict.fromkeys(arm["settings"]["loss"] for arm in arms.values())
    rows = [_loss(loss, [arm for arm in arms.values() if arm["settings"]["loss"] == loss]) for loss in losses]
    titles = ("loss", "seeds", "test top-1 %", "spread", "seconds of each arm")
    return f"{_table(titles, rows, text=1)}\n\n{_equal(found)}"


def _loss(loss: str, arms: Sequence[Arm]) -> Iterator[str]:
    values = [arm["figures"]["test/top1"] for arm in arms]
    yield from (f"`{loss}`", str(len(arms)), f"{mean(values):.2f}", f"{stdev(values):.2f}")
    yield ", ".join(f"{arm['duration_s']:.0f}" for arm in arms)


def _search(found: Mapping[str, Any]) -> str:
    whole = found["whole"]
    keys = list(next(iter(whole["arms"].values()))["settings"])
    titles = ("trial", *keys, "state", "validation top-1 %")
    rows = [_trial(name, arm, keys) for name, arm in whole["arms"].items()]
    best = whole["arms"][whole["best"]]["figures"]
    return (
        f"{_table(titles, rows, text=1)}\n\nThe best is {whole['best']}, with {best['validation/top1']:.2f} % on "
        f"validation and {best['test/top1']:.2f} % on test images. {_equal(found)}"
    )


def _trial(name: str, arm: Arm, keys: Sequence[str]) -> Iterator[str]:
    yield name
    for key in keys:
        text = arm["settings"][key]
        yield text if len(text) < 8 else f"{float(text):.2e}"
    yield f"{arm['state']} {arm['why']}".strip()
    value = arm["figures"].get("validation/top1")
    yield "" if value is None else f"{value:.2f}"


def _equal(found: Mapping[str, Any]) -> str:
    whole, killed = found["whole"]["arms"], found["killed"]["arms"]
    equal = sum(_without_time(arm) == _without_time(killed.get(name, {})) for name, arm in whole.items())
    *most, last = (f"{seconds:g}" for seconds in found["kills_after_s"])
    return (
        f"Killed {', '.join(most)} and {last} seconds after it was started or continued, it ended with {equal} of "
        f"{len(whole)} arms equal: state, every figure, and every weight of those that ran to their end."
    )


def _without_time(arm: Arm) -> dict[str, Any]:
    left_out = {"duration_s"} | ({"weights"} if arm.get("state") == "pruned" else set())
    return {key: value for key, value in arm.items() if key not in left_out}


def _table(titles: Sequence[str], rows: Sequence[Iterator[str]], *, text: int) -> str:
    """A table whose first `text` columns are text, and the others numbers."""
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * text}{' ---: |' * (len(titles) - text)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
