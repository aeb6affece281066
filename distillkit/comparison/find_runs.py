"""Find the runs to compare: run directories, or folders that hold some."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from distillkit.contracts.student_directory import is_run, run_of
from distillkit.errors import RunDirectoryError
from distillkit.storage.links import is_link
from distillkit.storage.user_dirs import expanded

DEPTH = 3
"""Levels of folders that are searched for runs."""
MOST_RUNS = 1000
"""Limit on the runs of one comparison."""


def find_runs(paths: str | PathLike[str] | Sequence[str | PathLike[str]]) -> tuple[Path, ...]:
    """The run directories among `paths` and in the folders among them, in the order given.

    Folders are searched DEPTH levels deep, in the order of names with numbers counted ("run-2" before "run-10").
    Raises: RunDirectoryError for a path that is not a run and holds none, for a run that is given twice, for no path.
    """
    given = [paths] if isinstance(paths, str | PathLike) else list(paths)
    if not given:
        raise RunDirectoryError("there are no runs to compare; give run directories, or a folder that holds some")
    found: dict[Path, Path] = {}
    for path in map(expanded, map(Path, given)):
        for run in _runs_at(path):
            resolved = run.resolve()
            if resolved in found:
                twice = f"'{run}'" if run == found[resolved] else f"'{found[resolved]}' and '{run}'"
                raise RunDirectoryError(
                    f"a run is given twice: {twice}; give it once, or only the folder that holds it"
                )
            found[resolved] = run
            if len(found) > MOST_RUNS:
                raise RunDirectoryError(f"there are more than {MOST_RUNS:,} runs to compare; give fewer")
    return tuple(found.values())


def _runs_at(path: Path) -> list[Path]:
    if is_run(path):
        return [path]
    if not path.exists():
        raise RunDirectoryError(f"there is no run directory '{path}'; check the path")
    if not path.is_dir():
        raise RunDirectoryError(f"'{path}' is a file; give run directories, or a folder that holds some")
    owner = run_of(path)
    if owner is not None:
        raise RunDirectoryError(
            f"'{path}' is a folder of run '{owner}'; runs are compared as a whole, so give '{owner}'"
        )
    runs = list(_inside(path, DEPTH))
    if not runs:
        raise RunDirectoryError(
            f"'{path}' is not a run directory and holds none (no recipe.toml in it); check the path"
        )
    return runs


def _inside(folder: Path, depth: int) -> Iterator[Path]:
    """The runs in a folder. Folders inside a run are not searched, and links are not followed."""
    try:
        entries = sorted((each for each in folder.iterdir() if each.is_dir() and not is_link(each)), key=_natural)
    except OSError:  # a folder without permission to list it holds no run that could be read
        return
    for entry in entries:
        if is_run(entry):
            yield entry
        elif depth > 1:
            yield from _inside(entry, depth - 1)


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key to sort names in which numbers count by their value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
