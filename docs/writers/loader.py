"""The table of docs/loader.md, from the result of benchmarks/loader.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parents[1] / "benchmarks" / "loader.json"
TITLES = {"jpeg": "JPEG, 500 x 375 pixels, DeiT's augmentation", "small": "32 x 32 pixels, padded crop and flip"}


def page() -> str:
    """Images per second and core of every arm, with its ratio to the baseline."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = ["| images | arm | images per second and core | ratio, 95 % interval |", "| --- | --- | ---: | --- |"]
    rows += [row for kind, title in TITLES.items() for row in _rows(title, found[kind])]
    where = f"{found['machine']['processor']}, one thread, {found['rounds']} interleaved rounds, CPU time."
    return "\n".join([*rows, "", where])


def _rows(title: str, kind: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, arm in kind["arms"].items():
        interval = f"{arm['ratio']:.2f} ({arm['ratio_low']:.2f} to {arm['ratio_high']:.2f})"
        ratio = "1, the baseline" if name == kind["baseline"] else interval
        rows.append(f"| {title} | {name} | {arm['images_per_s_and_core']:,.0f} | {ratio} |")
    return rows
