"""metrics.jsonl: what a run measured, one JSON object a line; its `kind` is steps, epoch, note, end or failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from distillkit.errors import RunDirectoryError
from distillkit.plugin.extras import require

if TYPE_CHECKING:
    from pandas import DataFrame

METRICS = "metrics.jsonl"


@overload
def read_metrics(run: str | PathLike[str], *, as_frame: Literal[False] = False) -> list[dict[str, Any]]: ...
@overload
def read_metrics(run: str | PathLike[str], *, as_frame: Literal[True]) -> DataFrame: ...
def read_metrics(run: str | PathLike[str], *, as_frame: bool = False) -> list[dict[str, Any]] | DataFrame:
    """Read what a run measured, in order; also while it trains.

    `run` is a run directory. The `kind` of a row is steps (one per log interval), epoch, note, end (the final figures)
    or failed. Rows of steps and epochs have `step` and `epoch`; losses stand as `loss` and `loss/<loss>/<term>`,
    accuracies in percent as `<split>/top1`, times in seconds, rates in images per second. `as_frame` returns a pandas
    frame with a column for every name, NaN where a row has none. Lines that are torn, such as one that was cut short,
    are left out; a run without the tracker `metrics` has no rows.

    Raises: RunDirectoryError where there is no directory; MissingExtraError where a frame is asked for and pandas is
    not installed.

    For example:
        >>> rows = distillkit.read_metrics("runs/first")
        >>> [row["step"] for row in rows if row["kind"] == "epoch"]
        [10.0]
    """
    if not Path(run).is_dir():
        raise RunDirectoryError(f"there is no run directory {run}; check the path")
    rows = list(_rows(Path(run) / METRICS))
    if not as_frame:
        return rows
    require("pandas", what="a frame of metrics")
    import pandas as pd

    return pd.DataFrame(rows)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("kind"), str):
                yield row
