"""The table of one pass in docs/sweep.md, from the result of benchmarks/one_pass.py."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

RESULT = Path(__file__).parents[1] / "benchmarks" / "one-pass.json"
WAYS = ("together", "in turn")
TITLES = {"steps": "steps", "calls": "whole calls"}
TEACHERS = {"live": "runs", "bank": "is read from a filled bank"}


def page() -> str:
    """Seconds of three students together and in turn, with the ratio."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = [
        "| the teacher | measured | together, s | in turn, s | in turn / together, 95 % interval |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for kind, teacher in TEACHERS.items():
        for what, title in TITLES.items():
            clock = f"{what}, passed"
            own, turns = (statistics.median(each[clock] for each in found["seconds"][kind][way]) for way in WAYS)
            ratio = found["ratios"][f"{kind}, {clock}"]
            interval = f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
            rows.append(f"| {teacher} | {title} | {own:.1f} | {turns:.1f} | {interval} |")
    rounds = found["ratios"]["live, steps, passed"]["rounds"]
    where = (
        f"{found['machine']['processor']}, one thread, {rounds} interleaved rounds, {found['steps']} steps of "
        f"{found['batch']} images in {found['precision']}."
    )
    return "\n".join([*rows, "", where])
