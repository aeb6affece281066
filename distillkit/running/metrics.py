"""metrics.jsonl: the metrics of a run, one JSON object per line, of `kind` steps, epoch, note, end or failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import TextIOWrapper
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from distillkit.errors import RunDirectoryError
from distillkit.plugin.extras import require
from distillkit.storage.untrusted import open_plain, parse_json

if TYPE_CHECKING:
    from pandas import DataFrame

METRICS = "metrics.jsonl"
LONGEST_LINE = 2**24
"""Characters of a row. What follows them in a longer line is no row either."""
LARGEST = 2**30
"""Characters that are read of a file: a million rows have fewer, and a file of any size can take no room on a disk."""


@overload
def read_metrics(run: str | PathLike[str], *, as_frame: Literal[False] = False) -> list[dict[str, Any]]: ...
@overload
def read_metrics(run: str | PathLike[str], *, as_frame: Literal[True]) -> DataFrame: ...
def read_metrics(run: str | PathLike[str], *, as_frame: bool = False) -> list[dict[str, Any]] | DataFrame:
    """Read the metrics of a run, in order; also while it trains.

    `run` is a run directory. The `kind` of a row is steps (one per log interval), epoch, note, end (the final figures)
    or failed. Rows of steps and epochs have `step` and `epoch`; losses are named `loss` and `loss/<loss>/<term>`,
    accuracies in percent `<split>/top1`; times are in seconds, rates in images per second. `as_frame` returns a pandas
    DataFrame with a column per name, NaN where a row has no value. Truncated lines are left out. A run without the
    tracker `metrics` has no rows.

    Raises: RunDirectoryError where there is no directory; MissingExtraError for `as_frame` without pandas.

    For example:
        >>> rows = distillkit.read_metrics("runs/first")
        >>> [row["step"] for row in rows if row["kind"] == "epoch"]
        [10.0]
    """
    if not Path(run).is_dir():
        raise RunDirectoryError(f"there is no run directory '{run}'; check the path")
    rows = list(_rows(Path(run) / METRICS))
    if not as_frame:
        return rows
    require("pandas", what="read_metrics(as_frame=True)")
    import pandas as pd

    return pd.DataFrame(rows)


def failure(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The error with which a run ended, as one line, from its rows; None if it did not fail.

    >>> failure([{"kind": "steps"}, {"kind": "failed", "message": "the loss is  not finite"}])
    'the loss is not finite'
    """
    last = rows[-1] if rows else {}
    return " ".join(str(last.get("message") or last.get("error")).split()) if last.get("kind") == "failed" else None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    try:
        opened = open_plain(path)
    except ValueError:  # it was replaced meanwhile
        return
    # The last line of a killed run may end inside a character.
    with TextIOWrapper(opened, encoding="utf-8", errors="replace") as file:
        left = LARGEST
        while line := file.readline(min(LONGEST_LINE, left)):
            left -= len(line)
            try:
                row = parse_json(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("kind"), str):
                yield row
